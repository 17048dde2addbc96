"""TensorBoard itself, started on a sweep: what its backend tells of each tab, and what its page shows."""

import json
import re
import signal
import time
import urllib.request
from urllib.parse import quote

import numpy as np
import pytest
from browser import browser
from harness import IMAGES, TRAINING, UNMEASURED, genlab, python
from PIL import Image

pytestmark = pytest.mark.slow

VAE = ["model=vae", "model.latent_dim=2", "model.encoder.hidden_dim=8", "model.decoder.hidden_dim=8"]
_WORDS = """(function words(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent + "\\n";
  const inside = [...node.childNodes, ...(node.shadowRoot ? node.shadowRoot.childNodes : [])];
  return inside.filter(each => !["STYLE", "SCRIPT"].includes(each.nodeName)).map(words).join("");
})(document)"""
"""Of the whole page; much of it is in shadow roots."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two autoencoders and a flow; the flow is evaluated on images of other sets, too."""
    outputs = tmp_path_factory.mktemp("browsed")
    common = [*IMAGES, *TRAINING, *UNMEASURED]
    assert genlab("train", "-m", *common, *VAE, "model.beta=1,4", f"output_dir={outputs}").code == 0
    flow = ["model=realnvp", "model.net.hidden_dim=8", "model.num_flows=4", f"hydra.run.dir={outputs}/flow"]
    assert genlab("train", *common, *flow).code == 0
    few = ["evaluation.datasets=[constant]", "evaluation.resamples=2", "evaluation.max_images=16"]
    scores = "evaluation.scores=[log_likelihood]"
    assert genlab("eval", f"run={outputs / 'flow'}", "evaluation=ood", scores, *few).code == 0
    return outputs


@pytest.fixture(scope="module")
def address(sweep):
    """Where TensorBoard has read the sweep and answers; it is ended after the tests."""
    options = ["--logdir", sweep, "--host", "127.0.0.1", "--port", "0", "--samples_per_plugin", "images=100"]
    process = python("-m", "tensorboard.main", *options, env={"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            pytest.fail("TensorBoard ended before it answered")
        _wait_for_runs(found[0], 3)
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def _wait_for_runs(address, number):
    deadline = time.monotonic() + 240
    while len(_get(address, "runs")) < number:
        assert time.monotonic() < deadline, "TensorBoard has not read the runs"
        time.sleep(0.5)


def _get(address, path, **question):
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in question.items())
    with urllib.request.urlopen(f"{address}data/{path}?{query}", timeout=60) as answer:
        return json.load(answer)


def _ask_hparams(address, what, question):
    data = json.dumps({"experimentName": "", **question}).encode()
    request = urllib.request.Request(f"{address}data/plugin/hparams/{what}", data)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_every_tab_has_something_to_show(address):
    listing = _get(address, "plugins_listing")
    tabs = ("scalars", "custom_scalars", "images", "histograms", "hparams", "pr_curves", "text")
    assert [tab for tab in tabs if not listing[tab]["enabled"]] == []


def test_the_charts_of_all_runs_are_joined_and_have_their_curves(address):
    layout = _get(address, "plugin/custom_scalars/layout")
    charts = {c["title"]: {chart["title"]: chart for chart in c["chart"]} for c in layout["category"]}
    assert charts["Terms"].keys() >= {"kl", "reconstruction", "log_det"}  # a VAE's and a flow's
    (tag, _) = charts["Terms"]["kl"]["multiline"]["tag"]
    run = next(name for name in _get(address, "runs") if "0-vae" in name)
    found = _get(address, "plugin/custom_scalars/scalars", run=run, tag=tag)
    assert found["regex_valid"]
    assert [step for _, step, _ in found["tag_to_events"]["train/kl"]] == list(range(1, 9))


def test_runs_are_compared_by_what_differs_first_and_by_their_final_metrics(address, sweep):
    experiment = _ask_hparams(address, "experiment", {"hparamsLimit": 0})
    names = [info["name"] for info in experiment["hparamInfos"]]
    assert {"model.beta", "model.num_flows", "trainer.optimizer.lr"} <= set(names)
    differing = [info["name"] for info in experiment["hparamInfos"] if info.get("differs")]
    assert names[: len(differing)] == differing
    assert "model.beta" in differing
    metrics = [info["name"] for info in experiment["metricInfos"]]
    assert {"group": "", "tag": "val/loss"} in metrics
    question = {"startIndex": 0, "sliceSize": 10, "colParams": [{"metric": name} for name in metrics]}
    question["allowedStatuses"] = ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN", "STATUS_FAILURE"]
    groups = _ask_hparams(address, "session_groups", question)["sessionGroups"]
    assert sorted(group["hparams"].get("model.beta", 0) for group in groups) == [0, 1, 4]
    assert {group["sessions"][0]["status"] for group in groups} == {"STATUS_SUCCESS"}
    for group in groups:
        (folder,) = {session["name"].removesuffix("/tensorboard") for session in group["sessions"]}
        final = json.loads((sweep / folder / "summary.json").read_text())["metrics"]
        shown = {each["name"]["tag"]: each["value"] for each in group["metricValues"]}
        assert {name: shown[name] for name in final} == pytest.approx(final, rel=1e-5)


def test_images_have_a_slider_over_epochs(address):
    tags = _get(address, "plugin/images/tags")
    run = next(name for name in tags if "0-vae" in name)
    assert {"samples", "reconstructions"} <= tags[run].keys()
    shown = _get(address, "plugin/images/images", run=run, tag="samples", sample=0)
    assert [image["step"] for image in shown] == [4, 8]


def test_a_detection_has_its_precision_over_recall(address):
    run = next(name for name in _get(address, "plugin/pr_curves/tags") if "flow" in name)
    found = _get(address, "plugin/pr_curves/pr_curves", run=run, tag="ood/log_likelihood/constant")
    (curve,) = found[run]
    assert len(curve["precision"]) == len(curve["recall"]) > 100


@pytest.mark.parametrize(
    ("tab", "words"),
    [
        ("timeseries", ["0-vae", "flow", "evaluation"]),
        ("custom_scalars", ["Loss", "Terms", "kl", "reconstruction", "log_det", "train/kl"]),
        ("images", ["reconstructions", "samples"]),
        ("hparams", ["model.beta", "val/loss"]),
    ],
)
def test_the_page_shows_the_runs(tab, words, address, here):
    with browser(here / "profile") as window:
        size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        window.send("Emulation.setDeviceMetricsOverride", **size)
        window.send("Page.navigate", url=f"{address}?darkMode=false#{tab}")
        deadline = time.monotonic() + 120
        while missing := [word for word in words if word not in window.evaluate(_WORDS)]:
            assert time.monotonic() < deadline, f"not on the page: {missing}"
            time.sleep(1)
        time.sleep(2)  # curves and pictures come after their titles
        window.screenshot(here / "page.png")
    with Image.open(here / "page.png") as image:
        assert image.size == (1280, 800)
        pixels = np.asarray(image.convert("RGB"))[80:]  # below the bar, which is there in any case
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # black words on white alone have fewer
