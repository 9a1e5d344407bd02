"""A reward term of your own: five lines of Python, and one setting.

Run:  python examples/custom_reward.py
On the command line:  rethink train demo-grpo 'rewards.0={function="custom_reward:brevity", weight=0.2}'
"""

import rethink


def brevity(reply: str, gold: str, n_tokens: int) -> float:
    """Return 1 for an empty reply, down to 0 for one of 24 tokens. Called for right replies only (`only_if_right`)."""
    return max(0.0, 1 - n_tokens / 24)


if __name__ == "__main__":
    settings = ["out=runs/custom-reward", "updates=4", "evaluation.problems.limit=100"]
    settings.append('rewards.0={function="custom_reward:brevity", weight=0.2}')
    for record in rethink.train(rethink.open_run(rethink.load_recipe("demo-grpo", settings))):
        if record["phase"] == "solve":
            print(
                f"reward {record['reward']:.3f} = {record['reward/verdict']:.3f} + 0.2 * {record['reward/brevity']:.3f}"
            )
