"""Deploying: a mixture behind a serving engine with adapters, and the gateway in front of it (docs/deploy.md).

- ``deploying``: from a mixture that `auto` routes to a folder that runs elsewhere;
- ``probing``: the probe (`roster.auto.probe`) by which the gateway names an adapter for each prompt;
- ``vllm``: what the engine has to be told.
"""
