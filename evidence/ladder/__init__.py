"""The ladder: one rung a way to route without a label, each measured against the look-up by data set, which has one.

protocol   who learns from what, how the dial is set, the intervals
rungs      routers on vectors of the prompt
answers    rungs that read answers of cheap models
vectors    encoders whose rows are kept on disk
page       docs/results/lm-ladder.md
__main__   runs what is missing: `python -m evidence.ladder`
"""
