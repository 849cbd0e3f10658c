"""Every field of PEFT's config is either refused by name, or known to be harmless; and what is refused says so."""

import dataclasses

import peft
import pytest

from library import saved
from roster import RosterError
from roster.library import read_adapter
from roster.library.config import CONFIG
from roster.library.refusals import REFUSALS

# A value of each refused field that a real file may have.
REFUSED = {
    "modules_to_save": [["classifier"]],
    "trainable_token_indices": [[1, 2], {"embed_tokens": [3]}],
    "target_parameters": [["mlp.experts.gate_up_proj"]],
    "layer_replication": [[[0, 2], [1, 2]]],
    "bias": ["all", "lora_only"],
    "lora_bias": [True],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga"],
    "megatron_config": [{"tensor_model_parallel_size": 2}],
    "alora_invocation_tokens": [[5, 6]],
    "use_qalora": [True],
    "velora_config": [{"num_groups": 4}, {}],
    "monteclora_config": [{"num_samples": 2}],
    "use_bdlora": [{"nblocks": 2}],
    "arrow_config": [{"top_k": 2}],
    "kasa_config": [{}],
    "ensure_weight_tying": [True],
}
READ = {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
READ |= {"use_dora"}
READ |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
# Describe training, or do nothing unless a refused field is set; fan_in_fan_out is how the base stores its weight.
HARMLESS = {"task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "fan_in_fan_out"}
HARMLESS |= {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"}
HARMLESS |= {"runtime_config"}


def test_every_field_of_peft_is_accounted_for():
    """A newer PEFT with a new field fails here: somebody has to look at what it changes."""
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields == READ | HARMLESS | REFUSED.keys()
    assert REFUSED.keys() == {refusal.field for refusal in REFUSALS}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in REFUSED.items() for v in values])
def test_refused_by_name(field, value, adapter_folder):
    saved.edit_config(adapter_folder, **{field: value})
    with pytest.raises(RosterError, match=field) as caught:
        read_adapter(adapter_folder)
    assert CONFIG in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("kind", ["LOHA", "LOKR", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "XLORA", "OFT", None, 3])
def test_other_types_are_refused(kind, adapter_folder):
    saved.edit_config(adapter_folder, peft_type=kind)
    with pytest.raises(RosterError, match=f"peft_type is {kind!r}"):
        read_adapter(adapter_folder)


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_a_newer_field_that_is_off_is_ignored(value, adapter_folder):
    before = read_adapter(adapter_folder).weights_hash
    saved.edit_config(adapter_folder, use_lora_of_tomorrow=value)
    assert read_adapter(adapter_folder).weights_hash == before


@pytest.mark.parametrize(("field", "hint"), [("use_lora_of_tomorrow", "newer PEFT"), ("lora_alhpa", "'lora_alpha'")])
def test_a_newer_field_that_is_on_is_refused(field, hint, adapter_folder):
    saved.edit_config(adapter_folder, **{field: 7})
    with pytest.raises(RosterError, match=rf"unknown field '{field}' = 7.*{hint}"):
        read_adapter(adapter_folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "4"),
        ("r", 0),
        ("r", True),
        ("lora_alpha", "8"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", None),
        ("rank_pattern", {"q_proj": 2.5}),
        ("rank_pattern", {"(": 2}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"q_proj": float("inf")}),
        ("use_rslora", "yes"),
        ("target_modules", "("),
        ("target_modules", [3]),
        ("exclude_modules", "("),
        ("base_model_name_or_path", 5),
    ],
)
def test_values_of_the_wrong_kind(field, value, adapter_folder):
    saved.edit_config(adapter_folder, **{field: value})
    with pytest.raises(RosterError, match=f"{field}=.* must be "):
        read_adapter(adapter_folder)


def test_what_peft_itself_refuses(adapter_folder):
    saved.edit_config(adapter_folder, target_modules=".*", layers_to_transform=[0])
    with pytest.raises(RosterError, match="layers_to_transform"):
        read_adapter(adapter_folder)
