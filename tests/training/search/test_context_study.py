"""The study of context: an answer that its numbers allow, chosen without the images that score it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data.making import write_folder

import napari_msunet as ms
from napari_msunet.config import AutoModel, ContextJob, FolderSource, TrainJob, UNetConfig
from napari_msunet.errors import MsunetError
from napari_msunet.training.search.context_study import sentence, study, verdict

ONE, SEVERAL = ("fine", "coarse"), ("pair", "triple")


def rows(gains: dict[str, float], groups: int = 12, noise: float = 0.0) -> list[dict]:
    """Trials of three folds in which a variant finds this share more of the class than 0.6, groups differing; `noise`
    is added for several scales in every second pair of groups, and taken away in the others."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.7, groups)
    found = []
    for name, gain in gains.items():
        for fold in (1, 2, 3):
            own = {}
            for group in range(fold - 1, groups, 3):
                hit = int(1000 * (base[group] + gain + noise * (name in SEVERAL) * (1 if group % 4 < 2 else -1)))
                own[f"g{group}"] = {"fused": [[5000, 0], [1000 - hit, hit]]}
            found.append({"variant": name, "fold": fold, "seed": 0, "groups": own})
    return found


def job(source, out, **options) -> ContextJob:
    model = AutoModel(classes=("disc",), mpp=1.0, branch=UNetConfig(depth=2, width=4))
    training = TrainJob(model=model, sources=(source,), out=out / "run", batch_size=2, size=32, device="cpu")
    given = {"seconds": 0.4, "threads": 1, "folds": 2, "resolutions": (1.0, 2.0), "scales": ((1.0, 0.5),)}
    return ContextJob(**{"training": training, "out": out / "study", **given, **options})


@pytest.mark.parametrize(
    ("gain", "noise", "answer"), [(0.1, 0.01, "yes"), (-0.1, 0.01, "no"), (0.001, 0.001, "no"), (0.02, 0.1, "unclear")]
)
def test_the_answer_is_what_the_numbers_allow(gain, noise, answer, tmp_path):
    found = verdict(rows({"fine": 0.0, "coarse": -0.1, "pair": gain, "triple": gain - 0.2}, noise=noise), ONE, SEVERAL)
    assert found["answer"] == answer
    assert found["groups"] == 12
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    words = sentence(found, job(FolderSource(images="i", masks="m", mpp=1.0), tmp_path))
    assert f"{found['difference']:+.3f}" in words
    assert ("pair" if answer == "yes" else "fine") in words


def test_a_variant_is_not_chosen_by_the_images_that_score_it():
    trials = rows({"fine": 0.0, "coarse": 0.0, "pair": 0.0, "triple": 0.0})
    for row in trials:  # "pair" is best on fold 1 alone, "triple" on the two others
        gain = {"pair": 300 if row["fold"] == 1 else 0, "triple": 0 if row["fold"] == 1 else 100}.get(row["variant"], 0)
        for counts in row["groups"].values():
            counts["fused"][1] = [counts["fused"][1][0] - gain, counts["fused"][1][1] + gain]
    found = verdict(trials, ONE, SEVERAL)
    assert found["several"][0] == "triple"  # for fold 1, by the folds 2 and 3
    assert found["several"][1:3] == ["pair", "pair"]  # for the others, by fold 1 and one more


def test_one_group_or_no_variant_is_one_sentence(tmp_path):
    found = verdict(rows({"fine": 0.0, "pair": 0.3}, groups=1)[0::3], ONE, SEVERAL)
    assert (found["answer"], found["interval"]) == ("unclear", None)
    assert "cannot be told from one group" in sentence(found, job(FolderSource(images="i", masks="m"), tmp_path))
    with pytest.raises(MsunetError, match="None of pair; triple could be trained"):
        verdict(rows({"fine": 0.0}), ONE, SEVERAL)


def test_a_study_of_images_ends_with_a_training_to_run(tmp_path):
    images, masks = write_folder(tmp_path, 6, (48, 48))
    asked = job(FolderSource(images=images, masks=masks, mpp=1.0), tmp_path)
    _, one, several = study(asked)
    assert one == ["one scale at 1 µm per pixel", "one scale at 2 µm per pixel"]
    assert several == ["scales 1, 1/2 at 1 µm per pixel"]
    result = ms.context_study(asked)
    assert result.answer in ("yes", "no", "unclear")
    assert result.sentence in (asked.out / "answer.md").read_text(encoding="utf8")
    scales = (1.0, 0.5) if result.answer == "yes" else (1.0,)
    assert result.best.model.scales == scales
    assert len(json.loads((asked.out / "experiment" / "report.json").read_bytes())["trials"]) == 6
    again = ms.context_study(asked.model_copy(update={"resume": True}))
    assert again.report["difference"] == result.report["difference"]
