"""The arena of feed-forward mixtures: small language models, trained on equal terms, one per recipe.

data      text that every Python installation carries, in three domains
pretrain  one recipe, one seed: trains a small model and measures it
"""
