"""transformers' own Trainer on routed models: balance losses in their measure, best checkpoints, resumed runs."""

import pytest
import torch
import transformers

import tiny
from roster.adapters.attach import attach
from roster.moe import replace
from roster.recipes import RECIPES

ROWS = [{"input_ids": row, "labels": row} for row in tiny.tokens(*[8] * 16, seed=1)]


def blocks(balance=0.5):
    torch.manual_seed(0)
    return replace(tiny.base(), "switch-transformer", options={"balance": balance})


def adapters(slug="x-lora"):
    torch.manual_seed(0)
    return attach(tiny.base(), tiny.library(tiny.base()), RECIPES[slug](), recipe=slug)


def trained(model, folder, rows=ROWS, resume=None, **settings):
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, **settings}
    arguments = transformers.TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy=settings.pop("save_strategy", "no"),
        **settings,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:4])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    """The router learns from the balance loss: four rows at once, or one after the other."""
    at_once, in_parts = blocks(), blocks()
    sgd = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    trained(at_once, tmp_path / "a", ROWS[:4], per_device_train_batch_size=4, **sgd)
    trained(in_parts, tmp_path / "b", ROWS[:4], per_device_train_batch_size=1, gradient_accumulation_steps=4, **sgd)
    alone = blocks(balance=0.0)
    trained(alone, tmp_path / "c", ROWS[:4], per_device_train_batch_size=4, **sgd)
    name = "model.layers.0.mlp.block.router.score.weight_ED"
    start = blocks().get_parameter(name)
    whole, parts, without = (m.get_parameter(name) - start for m in (at_once, in_parts, alone))
    balance = (whole - without).norm()
    assert balance > 1e-4
    # Load is counted within a call, so that parts are not quite the whole; four times too strong they are not.
    assert 0.5 < (parts - without).norm() / balance < 1.6


def test_the_share_of_a_part_is_exact():
    """A part of a batch with a third of its items adds a third of its own balance loss."""
    model = blocks().train()
    ids = torch.stack([row["input_ids"] for row in ROWS[:4]])
    labels = ids.clone()
    labels[:, :2] = -100
    items = 3 * int((labels != -100).sum())
    torch.manual_seed(1)
    whole = model(input_ids=ids, labels=labels)
    torch.manual_seed(1)
    part = model(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(items))
    torch.testing.assert_close(part.aux_loss, whole.aux_loss)
    bare = super(type(model).__mro__[1], model)  # the base's own forward, blind to balance losses
    with model.roster.slot.use(model._context({"input_ids": ids}, None, None, None)):
        cross = bare.forward(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(items)).loss
    torch.testing.assert_close(part.loss, cross + whole.aux_loss / 3)


@pytest.mark.parametrize("how", ["without labels", "return_dict=False", "evaluation"])
def test_the_balance_loss_is_in_the_output(how):
    model = blocks().train(how != "evaluation")
    ids = torch.stack([row["input_ids"] for row in ROWS[:4]])
    if how == "without labels":
        output = model(input_ids=ids)
        assert output.loss is None
        output.aux_loss.backward()
        assert model.get_parameter("model.layers.0.mlp.block.router.score.weight_ED").grad.any()
    elif how == "evaluation":
        assert "aux_loss" not in model(input_ids=ids, labels=ids)
    else:
        as_tuple = model(input_ids=ids, labels=ids, return_dict=False)
        assert isinstance(as_tuple, tuple)
        torch.testing.assert_close(as_tuple[0], model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("make", [adapters, lambda: adapters("mov-molora"), blocks])
def test_the_best_checkpoint_is_loaded_at_the_end(make, tmp_path):
    """A rate so high that later steps are worse: what remains is the best of what was evaluated."""
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trained(make(), tmp_path, learning_rate=0.5, load_best_model_at_end=True, **steps)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.parametrize("make", [adapters, lambda: adapters("mov-molora"), blocks])
def test_a_resumed_run_ends_where_an_unbroken_one_does(make, tmp_path):
    steps = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole = trained(make(), tmp_path / "whole", **steps).model
    resumed = trained(make(), tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-2"), **steps).model
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(resumed.get_parameter(name), parameter, atol=1e-6, rtol=1e-5)
