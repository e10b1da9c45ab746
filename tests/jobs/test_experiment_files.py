"""Experiments and searches in files: the folder of the data, the short mode, and what cannot be read."""

import json
from pathlib import Path

import pytest

from napari_msunet.config import ExperimentJob, TuneJob
from napari_msunet.errors import MsunetError
from napari_msunet.jobs.experiment_files import needs_data, read_comparison, read_experiment

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.json"))
HALF_HOUR = 30 * 60


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_has_a_short_mode_of_half_an_hour_on_two_processors(file):
    assert needs_data(file)
    whole, short = (read_comparison(file, Path("/data"), short) for short in (False, True))
    assert all("/data/" in str(source) for source in whole.training.model_dump(mode="json")["sources"])
    assert seconds(short) / 2 <= HALF_HOUR
    assert seconds(short) < seconds(whole)
    assert f"`{file.name}`" in (file.parent / "README.md").read_text()


def seconds(job):
    """The processor time of all trainings."""
    if isinstance(job, TuneJob):
        return job.trials * job.folds * job.training.time_limit
    return len(job.variants) * len(job.seeds) * len(job.only_folds or range(job.folds)) * job.seconds


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    file = tmp_path / "file.json"
    values = json.loads(FILES[0].read_text())
    for text, sentence in (
        ("{", "cannot be read"),
        ("[]", "holds no object"),
        ('{"job": "pyramid", "image": "a", "out": "b"}', "job of another kind"),
        (json.dumps({k: v for k, v in values.items() if k != "short"}), 'give it an object "short"'),
    ):
        file.write_text(text)
        with pytest.raises(MsunetError, match=sentence):
            read_comparison(file, tmp_path, short="short" in sentence)
    with pytest.raises(MsunetError, match="give the folder that this is with --data"):
        read_comparison(FILES[0])
    with pytest.raises(MsunetError, match="cannot be read"):
        read_comparison(tmp_path / "missing.json")


def test_a_search_is_no_experiment():
    search = FILES[0].parent / "search-gp.json"
    assert isinstance(read_comparison(search, Path("/data")), TuneJob)
    with pytest.raises(MsunetError, match="is a search"):
        read_experiment(search, Path("/data"))
    assert isinstance(read_experiment(FILES[0], Path("/data")), ExperimentJob)
