"""lm: routing among whole language models. The token is a prompt, the expert a model, the score weighs quality against
cost and delay.

    records   who answered what how well, for how much, how fast      (roster.lm.records)
    estimate  quality, cost and delay per model for a prompt          (roster.lm.estimate, one idea a file)
    decide    which model, given the estimates and what one wants     (roster.lm.decide, one idea a file)
    policy    an estimator and a decision rule, saved as one folder   (roster.lm.policy)
    gateway   an OpenAI-compatible server in front of policies        (roster.gateway)
"""
