"""Networks through a whole training: slide normalisation by patient, valid convolutions, a space-to-depth stem."""

import pytest
import torch
import torch.nn.functional as F
from data.making import write_folder
from models.test_reference_networks import PlainUNet
from training.test_training import make, run, values

from napari_msunet.config import Augmentation, EvaluateJob, LossConfig, ModelConfig, UNetConfig
from napari_msunet.events import Message
from napari_msunet.inference.slide_statistics import layers_of
from napari_msunet.models import build_model, load_model
from napari_msunet.training.evaluate import evaluate_events
from napari_msunet.training.module import Training
from napari_msunet.training.record import RunFolder
from napari_msunet.training.setup import prepare


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("discs"), 8)


def config(**options) -> ModelConfig:
    branch = UNetConfig(**{"depth": 1, "width": 8, **options})
    return ModelConfig(classes=("disc",), mpp=1.0, scales=(1.0,), fusion="mean", branch=branch)


@pytest.mark.slow
def test_slide_normalisation(folders, tmp_path):
    job = make(folders, tmp_path / "run", model=config(norm="slide"), epochs=6, steps=10)
    found = values(run(job))
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert len(layers_of(model)) == 6
    scores = list(evaluate_events(EvaluateJob(model=tmp_path / "run" / "model.safetensors", sources=job.sources)))
    # Validation took each batch as it was, and evaluation fits each patient: both see what training saw.
    assert found["validation"]["fused"]["iou"] > 0.4
    assert scores[-1].values["pooled"]["fused"]["iou"] > 0.4


def test_batches_of_slide_normalisation_are_of_one_patient(folders, tmp_path):
    for norm, alone in (("slide", True), ("batch", False)):
        job = make(folders, tmp_path / norm, model=config(norm=norm), steps=12)
        session = prepare(job, RunFolder(job))
        try:
            assert session.batches.together is alone
            assert session.validation is not None
            groups = [{spot.item.group for spot in batch} for batch in session.validation.batches]
            assert all(len(g) == 1 for g in groups) is alone
            session.halve()
            assert session.validation.together is alone
        finally:
            session.close()


def test_valid_convolutions_read_more_and_lose_the_edge(folders, tmp_path):
    job = make(folders, tmp_path / "valid", model=config(padding="valid"))
    session = prepare(job, RunFolder(job))
    session.close()
    assert (session.windows.size, session.windows.border) == (32 + 2 * 10, 10)  # its reach at any phase is 9
    events = run(job)
    assert any("at each edge carry no loss" in e.text for e in events if isinstance(e, Message))
    run(make(folders, tmp_path / "zero", model=config()))
    first, second = (load_model(tmp_path / n / "model.safetensors") for n in ("valid", "zero"))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert first.margin == second.margin


def test_what_the_padding_reaches_carries_no_loss(folders, tmp_path):
    job = make(folders, tmp_path / "run", model=config(padding="valid"))
    session = prepare(job, RunFolder(job))
    session.close()
    torch.manual_seed(0)
    module = Training(build_model(session.config).eval(), job, session.windows, lambda: 0.0)
    size = session.windows.size
    image, target = torch.rand(1, 3, size, size), torch.randint(0, 2, (1, size, size))
    first = module._step(module.model, [image], target, None)
    changed = target.clone()
    changed[:, :10] = 1 - changed[:, :10]
    assert module._step(module.model, [image], changed, None) == first
    changed[:, 10] = 1 - changed[:, 10]
    assert module._step(module.model, [image], changed, None) != first


def test_a_step_on_mirrored_images_is_that_of_plain_valid_convolutions(folders, tmp_path):
    """The overlap-tile strategy: the window's middle, from real pixels around it and mirrored ones beyond the image."""
    options = {"augmentation": Augmentation.none(), "loss": LossConfig(dice=0, branch=0.0), "size": 64}
    job = make(folders, tmp_path / "run", model=config(padding="mirror", norm="none"), **options)
    session = prepare(job, RunFolder(job))
    batch = next(iter(session.batches))
    session.close()
    assert (session.windows.size, session.windows.border) == (64 + 2 * 10, 10)
    model = build_model(session.config)
    Training(model, job, session.windows, lambda: 0.0).loss_of(batch).backward()
    plain = PlainUNet(1, 8, norm=False, valid=True)
    network, head = model.branches[0].network, model.branches[0].head
    pairs = list(zip(network.parameters(), in_order_of_use(plain), strict=True))
    for ours, theirs in pairs:
        theirs.data.copy_(ours.detach())
    seen = model.normalise(batch.normalised()[0])[..., 2:-2, 2:-2]  # 80 pixels, of which 64 come out
    logits = head(plain(seen))
    target = batch.target[:, 10:-10, 10:-10].long()
    assert logits.shape[-2:] == target.shape[-2:] == (64, 64)
    F.cross_entropy(logits, target, ignore_index=255).backward()
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def in_order_of_use(plain):
    """The weights of a plain U-Net in the order of ours: the way down, then each doubling and its block."""
    for block in plain.down:
        yield from block.parameters()
    for double, block in zip(plain.rise, plain.up, strict=True):
        yield from double.parameters()
        yield from block.parameters()


@pytest.mark.slow
def test_a_stem_with_residual_blocks(folders, tmp_path):
    job = make(folders, tmp_path / "run", model=config(stem="space_to_depth", residual=True), epochs=6, steps=10)
    assert values(run(job))["validation"]["fused"]["iou"] > 0.4
