"""What torch can do here: on every device, what precisions give, and a trial trained twice.

Each device is looked at by a process of its own: a driver that aborts takes that process with it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.apart import command
from harness.doctoring.check import Check, guarded

_TIMEOUT = 300
_DRIVER = Path("/proc/driver/nvidia/version")
_MARK = "harness-doctor:"  # before the line that the process of a device has to say
_CODE = "from harness.doctoring import devices; devices.answer()"


def look() -> list[Check]:
    """Every device of this machine."""
    found = guarded("torch", torch_build)
    if any(check.state == "wrong" for check in found):
        return found
    import torch

    for index in [None, *range(torch.cuda.device_count())]:
        name = "cpu" if index is None else f"gpu {index}"
        found += guarded(name, _apart, name, index)
    return found


def torch_build() -> list[Check]:
    """Whether the build of torch fits the machine."""
    import torch

    build = "a build for the CPU" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    driver = _driver()
    said = f"torch {torch.__version__} ({build}); " + (
        f"NVIDIA driver {driver}" if driver else "no NVIDIA driver"
    )
    count = torch.cuda.device_count()
    if driver and torch.version.cuda is None:
        advice = "reinstall torch with CUDA: pip install --force-reinstall torch -c constraints.txt"
        return [Check("torch", "wrong", said, advice)]
    if driver and not torch.cuda.is_available():
        advice = "the driver is older than this CUDA, or CUDA_VISIBLE_DEVICES hides every GPU"
        return [Check("torch", "wrong", said, advice)]
    return [Check("torch", "ok", f"{said}; {count} GPU{'' if count == 1 else 's'}")]


def _driver() -> str:
    """The version of NVIDIA's driver; empty if there is none."""
    if _DRIVER.exists():
        words = _DRIVER.read_text(encoding="utf-8").split()
        return next((word for word in words if word[0].isdigit() and "." in word), "unknown")
    if (program := shutil.which("nvidia-smi")) is None:  # as in WSL, which has no such file
        return ""
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return ran.stdout.split("\n")[0].strip() if ran.returncode == 0 else ""


def _apart(name: str, index: int | None) -> list[Check]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    own = "" if index is None else visible[index] if visible != [""] else str(index)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": own, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    ran = subprocess.run(
        command(_CODE, name), env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False,
    )  # fmt: skip
    for line in ran.stdout.splitlines():
        if line.startswith(_MARK):
            return [Check(*entry) for entry in json.loads(line.removeprefix(_MARK))]
    last = (ran.stderr.strip().splitlines() or [""])[-1]
    return [Check(name, "wrong", f"its process ended with {ran.returncode} and said nothing: {last}")]


def answer() -> None:
    """The process of a device: prints what it finds."""
    name = sys.argv[1]
    found = [
        *guarded(f"{name}: precision", precision, name),
        *guarded(f"{name}: training", training, name),
    ]
    print(f"\n{_MARK}{json.dumps(found)}")


def precision(name: str) -> list[Check]:
    """A matrix product in every precision, next to that in fp32. What the hardware lacks is emulated,
    which works and is no faster."""
    import torch

    from harness.training.precision import DTYPES

    device = torch.device("cpu" if name == "cpu" else "cuda")
    size = 512 if device.type == "cpu" else 4096  # what a CPU emulates takes seconds beyond that
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device) for _ in range(2))
    exact = (a @ b).float()
    rates: dict[str, float] = {}
    faults: list[str] = []
    for label, dtype in DTYPES.items():
        try:
            left, right = a.to(dtype), b.to(dtype)
            error = float(((left @ right).float() - exact).norm() / exact.norm())
            if not error < 0.02:  # not a number counts, too
                faults.append(f"{label} is wrong by {error:.1%}")
            rates[label] = 2 * size**3 / _seconds(left, right)
        except RuntimeError as problem:
            faults.append(f"{label} does not run: {str(problem).splitlines()[0]}")
    said = _what(device) + ", ".join(
        f"{label} {rate / 1e9:.3g} GFLOP/s"
        + ("" if label == "fp32" or "fp32" not in rates else f" ({rate / rates['fp32']:.1f}×)")
        for label, rate in rates.items()
    )
    if faults:
        broken = [fault.split()[0] for fault in faults]
        state: Any = "wrong" if "fp32" in broken else "warning"
        return [
            Check(f"{name}: precision", state, f"{said}; {'; '.join(faults)}", "use training.precision: fp32")
        ]
    slow = [label for label in ("bf16", "fp16") if rates[label] < 1.2 * rates["fp32"]]
    advice = f"no faster than fp32 here, so probably emulated: {', '.join(slow)}" if slow else ""
    return [Check(f"{name}: precision", "ok", said, advice)]


def _seconds(a: Any, b: Any) -> float:
    """Of one product: the median over about a third of a second."""
    import torch

    def wait() -> None:
        if a.is_cuda:
            torch.cuda.synchronize()

    taken: list[float] = []
    wait()
    until = time.perf_counter() + 0.3
    while len(taken) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        a @ b
        wait()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _what(device: Any) -> str:
    import torch

    if device.type == "cpu":
        return f"{torch.get_num_threads()} threads: "
    found = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    return (
        f"{found.name}, compute capability {found.major}.{found.minor}, "
        f"{free / (1 << 30):.1f} of {total / (1 << 30):.1f} GiB free: "
    )


def training(name: str) -> list[Check]:
    """A trial of a tiny model on a tiny table, planned and trained as every other, twice: same seed, same
    result."""
    with tempfile.TemporaryDirectory(prefix="harness-doctor-") as folder:
        first, second = (_trial(Path(folder), run, gpus=0 if name == "cpu" else 1) for run in ("a", "b"))
    where = f"{name}: training"
    for record in (first, second):
        if record["status"] != "finished":
            return [Check(where, "wrong", f"a tiny trial {record['status']}: {record['reason']}")]
    took = first["cost"]["wall_s"]
    said = f"a tiny trial finished on {first['provenance']['hardware']['device']}, {took:.2f} s"
    if any(first[key] != second[key] for key in ("curve", "metrics", "drift")):
        advice = "results of one seed differ by rounding here; comparisons hold, exact repeats do not"
        return [Check(where, "warning", f"{said}; run again, it gave another result", advice)]
    return [Check(where, "ok", f"{said}; run again, it gave the same result")]


def _trial(folder: Path, run: str, gpus: int) -> dict[str, Any]:
    """The record of a trial in `folder`, trained in this process."""
    from harness import spec
    from harness.document import dump
    from harness.plan import make_plan
    from harness.prepare import prepare
    from harness.training.data import encode
    from harness.training.run import run_trial
    from harness.training.workspace import workspace_of

    os.environ["HARNESS_CACHE"] = str(folder / run / "cache")  # nothing is left behind
    (folder / run).mkdir()
    words = ["cat", "dog", "apple", "pear"]
    rows = [f"the {words[i % 4]} was {i},{'animal' if i % 4 < 2 else 'fruit'}" for i in range(24)]
    table = folder / run / "words.csv"
    table.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    _model(folder / run / "model", ["the", "was", *words])
    content = {
        "name": "doctor",
        "tasks": [
            {
                "name": "words", "kind": "text-classification",
                "train_size": 8, "validation_size": 8, "test_size": 8,
                "dataset": {"path": "csv", "data_files": {"train": str(table)}},
            }
        ],
        "backbones": [{"name": "tiny", "path": str(folder / run / "model")}],
        "training": {"epochs": 1, "batch_size": 8, "max_length": 8},
        "strategies": {"full": {"freeze": 0}},
        "seeds": {"tune": 1, "confirm": 0},
        "resources": {"cpus": 1, "gpus": gpus, "share": False},
    }  # fmt: skip
    file = folder / run / "sweep.yaml"
    file.write_text(dump(content), encoding="utf-8")
    sweep = spec.load(file)
    plan = make_plan(sweep, prepare(sweep))
    workspace = workspace_of(plan, folder / run / "results")
    (cell,) = plan.cells
    encode(workspace, cell.task, cell.backbone, 8)
    trial = run_trial(plan.trial(cell, cell.space.default, 0, "tune").as_dict(), workspace)
    while True:
        try:
            next(trial)
        except StopIteration as ended:
            record: dict[str, Any] = ended.value
            return record


def _model(folder: Path, words: list[str]) -> None:
    """A BERT of one block with random weights, and a tokenizer over a few words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    ids = {word: index for index, word in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(ids), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
