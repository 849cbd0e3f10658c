"""Judging a policy on traffic that another one routed: each prompt was answered by one model, or by a few of them.

estimators       IPS, self-normalised, doubly robust; effective sample, overlap      plain arrays
nuisance         who was asked with which chance, and what was to be expected        fitted on other prompts
counterfactual   records in which every cell is an estimate, or a refusal            what reports and tuning use
"""
