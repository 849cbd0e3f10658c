"""A config for every method, on the models of the `models` fixture; after a colon, a variant."""

_SETTINGS = {
    "linear": "weight: [0.5, 1.5]",
}
EVERY = list(_SETTINGS)


def config_text(name, folder):
    """YAML that merges m0, m1 (and m2 where the method takes three) by a method."""
    slug = name.partition(":")[0]
    models = ", ".join(f"{{model: {folder / each}}}" for each in ("m0", "m1"))
    return f"merge_method: {slug}\nmodels: [{models}]\nparameters: {{{_SETTINGS[name]}}}\n"
