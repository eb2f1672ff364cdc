"""Start the MLflow server of the compose file: make the bucket where there is none, then become `mlflow server`.

Passwords come from files, so that no environment and no command line shows them; MLflow itself is told by its
environment, which only this user can read. Uses neither the trainer nor the evaluator.
"""

import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

_TRIES = 30
_REGION = "us-east-1"
"""S3 clients want one; stores of one's own do not mind."""


def main() -> None:
    """Read the settings from the environment, and never return."""
    for name, value in environment(os.environ.get("SECRETS", "/run/secrets")).items():
        os.environ[name] = value
    bucket = setting("BUCKET")
    make_bucket(bucket)
    arguments = [
        *("mlflow", "server"),
        *("--host", os.environ.get("HOST", "0.0.0.0"), "--port", os.environ.get("PORT", "5000")),
        *("--workers", os.environ.get("WORKERS", "1")),
        *("--artifacts-destination", f"s3://{bucket}"),
        *("--allowed-hosts", setting("ALLOWED_HOSTS")),
    ]
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


def setting(name: str) -> str:
    """A variable that has to be set."""
    value = os.environ.get(name, "")
    if not value:
        sys.exit(f"error: {name} is not set; see infra/compose.yaml")
    return value


def environment(secrets: str) -> dict[str, str]:
    """MLflow's variables from the files that `make-secrets.sh` wrote."""
    password = secret(secrets, "postgres_password").strip()
    keys = json.loads(secret(secrets, "s3.json"))["identities"][0]["credentials"][0]
    place = setting("POSTGRES")
    return {
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{quote(password, safe='')}@{place}/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": setting("S3_ENDPOINT"),
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_DEFAULT_REGION": _REGION,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def secret(folder: str, name: str) -> str:
    """A secret's text."""
    try:
        return (Path(folder) / name).read_text()
    except OSError as error:
        sys.exit(f"error: no secret {name} in {folder} ({error.strerror}); infra/make-secrets.sh makes it")


def make_bucket(name: str) -> None:
    """Make the bucket where it is missing; waits half a minute for the store."""
    client = boto3.client(
        "s3",
        endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"],
        config=Config(s3={"addressing_style": "path"}, connect_timeout=2, retries={"max_attempts": 1}),
    )
    for left in reversed(range(_TRIES)):
        try:
            client.create_bucket(Bucket=name)
        except EndpointConnectionError as error:
            if not left:
                sys.exit(f"error: {error}; start the store, or correct S3_ENDPOINT")
            time.sleep(1)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                sys.exit(f"error: the bucket {name} cannot be made: {error}")
            return
        else:
            return


if __name__ == "__main__":
    main()
