"""Does a second attempt help the model behind a server? Accuracy before and after one refinement, with 95% intervals.

Run:  python examples/evaluate_endpoint.py http://127.0.0.1:8000 my-model problems.jsonl
Each line of the file holds {"question": ..., "answer": ...}. Any OpenAI-compatible server will do; a key is read from
OPENAI_API_KEY.
"""

import sys

import rethink

url, model, file = sys.argv[1:]
problems = rethink.load_problems(rethink.ProblemSource(file), purpose="test")
policy = rethink.EndpointPolicy(rethink.Endpoint(url), model, rethink.Sampling(temperature=0.0, max_tokens=2048))
settings = rethink.AnswerSettings(strategy="refine", sampling=policy.sampling)
answers = rethink.evaluate(policy, problems, settings, file="answers.jsonl")
print(rethink.summarize(answers))
