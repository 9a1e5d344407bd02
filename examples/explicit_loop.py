"""The training loop, written out: problems, a method, its updates, and the trainer that applies them.

`rethink.train(run)` does the same and also writes logs, evaluations and checkpoints. Run:  python examples/explicit_loop.py
"""

import rethink

recipe = rethink.load_recipe("demo-think-twice", ["out=runs/explicit-loop", "evaluation.problems.limit=100"])
run = rethink.open_run(recipe)
method = rethink.ThinkTwice(n_solve=8, n_refine=8)

for number in range(3):
    problems = run.problems_of_batch(number)
    for update in method.updates(run.actors(number), problems):
        metrics = run.trainer.apply(update)  # one backward pass per micro-batch, n_steps optimizer steps
        run.policy.publish(run.trainer.version)  # from here on the policy samples with the new weights
        rewards = [sample.reward for group in update.groups for sample in group if sample.reward is not None]
        print(f"{update.name:7} reward {sum(rewards) / len(rewards):.2f}  loss {metrics['loss']:+.4f}")

answers = rethink.evaluate(run.policy, run.held_out, recipe.evaluation, prompts=run.actors(0).prompts)
print(rethink.summarize(answers))
