#!/bin/sh
# Make the secrets of compose.yaml, random ones, in infra/secrets/ (or the folder given); keeps those that exist.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 022 # the containers' users have to read the files; the folder keeps other people out
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -e "$folder/$1" ] || { cat >"$folder/$1.new" && mv "$folder/$1.new" "$folder/$1"; }; }

random | keep postgres_password
keep s3.json <<END
{"identities": [{"name": "mlflow", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$(random)", "secretKey": "$(random)"}]}]}
END
# Empty: the service asks for no token. With one (16 characters or more), Prometheus sends it too.
printf '' | keep service_token
echo "secrets are in $folder"
