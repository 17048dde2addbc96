"""Who gets which pictures, and at which epochs."""

import json

import matplotlib as mpl
import pytest
import torch
from event_files import read_events
from harness import IMAGES, TRAINING, UNMEASURED, UNWATCHED, WATCHING, rows, state, train

VAE = ["model=vae", "model.encoder.hidden_dim=16", "model.decoder.hidden_dim=16", "model.eval_samples=2"]
TINY_VAE = [*VAE, *IMAGES, *TRAINING, *UNMEASURED, "evaluation.importance_samples=[2]"]
SCALARS = {f"posterior/{name}" for name in ("active_units", "mutual_information", "kl_max", "kl_min")}
DRAWN = ["reconstructions", "interpolation", "latent_map"]
OF_A_VAE = [*DRAWN, "traversals", "kl_per_dim"]


@pytest.fixture(scope="module", params=[2, 4])
def vae(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"vae{request.param}")
    return train(folder, *TINY_VAE, f"model.latent_dim={request.param}")


def _expected(run):
    return [*OF_A_VAE, *(["latent_grid"] if "vae2" in str(run) else [])]


def _pictures(run):
    known = {*OF_A_VAE, "latent_grid"}
    return {path.stem for path in (run / "figures").glob("*.svg") if path.stem in known}


def test_a_vae_gets_every_picture(vae):
    assert _pictures(vae) == set(_expected(vae))
    for name in _expected(vae):
        assert mpl.image.imread(vae / "figures" / f"{name}.png")[..., :3].std() > 0.01


def test_tensorboard_has_the_pictures(vae):
    events = read_events(vae)
    assert {*_expected(vae), "samples"} <= set(events.Tags()["images"])
    assert [image.step for image in events.Images("reconstructions")] == [4, 8]
    assert [image.step for image in events.Images("traversals")] == [8]  # the end is always shown
    assert len(events.Histograms("posterior/kl_per_dim")) == 2


def test_numbers_of_a_callback_are_final_metrics(vae):
    logged = {(int(step), name): float(value) for step, _, name, value in rows(vae)}
    assert {(step, name) for step, name in logged if name.startswith("posterior/")} == {
        (step, name) for step in (4, 8) for name in SCALARS
    }
    summary = json.loads((vae / "summary.json").read_text())["metrics"]
    assert summary.keys() >= SCALARS
    assert not any(name.startswith(("train/", "lr")) for name in summary)
    events = read_events(vae)
    for name in SCALARS:
        assert summary[name] == state(vae)["metrics"][name] == pytest.approx(logged[8, name], rel=1e-6)
        assert {event.step for event in events.Scalars(name)} == {4, 8}


def test_a_flow_gets_the_pictures_that_show_something_of_it(finished):
    assert _pictures(finished) == set(DRAWN)
    assert not any(row[2].startswith("posterior/") for row in rows(finished))


def test_looking_at_a_vae_does_not_change_its_training(vae, here):
    if "vae4" not in str(vae):
        pytest.skip("one is enough")
    plain = train(here / "plain", *TINY_VAE, *UNWATCHED, "model.latent_dim=4")
    for key, value in state(plain)["model"].items():
        assert torch.equal(value, state(vae)["model"][key]), key
    assert _pictures(plain) == set()


def test_every_callback_that_draws_takes_epochs_by_name(here):
    known = [f"callbacks.{name}={{every: null, at: [first]}}" for name in WATCHING]
    run = train(here / "outputs", *TINY_VAE, "model.latent_dim=2", *known)
    events = read_events(run)
    assert [image.step for image in events.Images("samples")] == [4]
    assert [image.step for image in events.Images("reconstructions")] == [4, 8]  # the end is always shown
    assert [h.step for h in events.Histograms("log_prob/val")] == [4]
