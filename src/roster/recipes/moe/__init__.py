"""Recipes of mixtures of feed-forward blocks. One method a file; this list is their part of the catalogue."""

from __future__ import annotations

from roster.recipes.moe import (
    capacity_aware_inference,
    cross_task,
    deepseekmoe,
    dense,
    direct_nmt,
    duo_llm,
    gshard,
    locmoe,
    loss_free_balancing,
    mindskip,
    moec,
    shortcut_moe,
    stratified_moe,
    switch,
    task_aware,
    task_moe,
    uni_perceiver,
)

RECIPES = (
    dense.ACTIVE,
    dense.TOTAL,
    switch.RECIPE,
    gshard.RECIPE,
    loss_free_balancing.RECIPE,
    moec.RECIPE,
    locmoe.RECIPE,
    capacity_aware_inference.RECIPE,
    deepseekmoe.RECIPE,
    shortcut_moe.RECIPE,
    stratified_moe.RECIPE,
    task_moe.RECIPE,
    task_aware.RECIPE,
    cross_task.RECIPE,
    uni_perceiver.RECIPE,
    direct_nmt.RECIPE,
    mindskip.RECIPE,
    duo_llm.RECIPE,
)
