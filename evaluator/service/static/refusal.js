/** An error whose words are meant for the person: what is wrong, and what to do. Every other one is a mistake of ours. */
export class Refusal extends Error {
  /** @param {string} words */
  constructor(words) {
    super(words);
    this.name = "Refusal";
  }
}
