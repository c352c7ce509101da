"""What sounds promise: models whose padding changes nothing, ladders that hold each weight once, files of any
rate that become a task from YAML alone, faults told with file and row, and error rates by hand."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
import transformers as tf

from harness.backbones.base import set_up_transformers
from harness.backbones.ladder import base_of, build_ladder
from harness.backbones.untrained import Untrained
from harness.errors import InputError
from harness.metrics import scorer
from harness.registry import build, plugins
from harness.tasks import sources
from harness.tasks.base import LENGTH, Facts, Task
from harness.tasks.content import content_hash
from harness.tasks.keypad import RATE, TONES, KeypadStrings, KeypadTones, wav
from harness.tasks.sound import Augmentation, decode
from harness.tasks.speech_recognition import frame_lengths, spelled

CTC, CLASSES = "AutoModelForCTC", "AutoModelForAudioClassification"
# The small models of the families, and DeepSpeech's other front and cells.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("wav2vec2", {}),
    "wav2vec2-postnorm": ("wav2vec2", {"do_stable_layer_norm": False}),
    "hubert": ("hubert", {}),
    "wavenet": ("wavenet", {}),
    "wavenet-unstrided": ("wavenet", {"stride": 1, "stem_kernel_size": 3, "dilations": [1, 2, 4]}),
    "deepspeech": ("deepspeech", {}),
    "deepspeech-strided": ("deepspeech", {"stride": 2, "cell": "gru"}),
    "deepspeech-convolution": (
        "deepspeech",
        {
            "front": "convolution",
            "channels": [4, 4],
            "recurrent_layers": 2,
            "cell": "lstm",
            "dense_layers": 0,
        },
    ),
}
OWN = [name for name, (family, _) in CASES.items() if family in ("wavenet", "deepspeech")]
every_model = pytest.mark.parametrize("case", CASES)
own_model = pytest.mark.parametrize("case", OWN)
HEAD = {"num_labels": 3, "vocab_size": 6, "pad_token_id": 0, "ctc_zero_infinity": True}


@cache
def backbone(case: str) -> Untrained:
    family, changes = CASES[case]
    return Untrained(family=family, changes=changes)


def model(case: str, auto: str) -> Any:
    chosen = backbone(case)
    torch.manual_seed(0)
    return chosen.model(auto, chosen.processor("AutoFeatureExtractor"), HEAD).eval()


def padded(case: str, lengths: tuple[int, ...] = (1600, 973, 1201)) -> dict[str, torch.Tensor]:
    """A batch of noise of several lengths, as a task makes it; where padded, what no one should look at."""
    rng = np.random.default_rng(0)
    processor = backbone(case).processor("AutoFeatureExtractor")
    task = build(plugins("tasks", Task)["audio-classification"], {}, "task")
    rows = [task.encode(one_row(rng.normal(0, 0.2, size)), processor, FACTS, None)[0] for size in lengths]
    return dict(task.collate(processor)(rows, None))


def one_row(wave: Any, label: str = "a", rate: int = RATE) -> Any:
    from datasets import Dataset

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV")
    return Dataset.from_dict({"audio": [file.getvalue()], "label": [label]})


FACTS = Facts({}, ["a", "b", "c"], "")


# -- models ----------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("auto", [CTC, CLASSES])
def test_padding_changes_no_logits(case: str, auto: str) -> None:
    """Neither an example's neighbours nor what stands where it has ended."""
    network, batch = model(case, auto), padded(case)
    batch.pop("labels")
    name = network.main_input_name
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        together = network(**batch).logits
        batch[name][~mask] = 0.5
        if case in OWN:
            assert torch.allclose(network(**batch).logits, together, atol=1e-5)
        for index, length in enumerate(mask.sum(-1).tolist()):
            alone = network(**{name: batch[name][index : index + 1, :length]}).logits[0]
            same = together[index][: len(alone)] if auto == CTC else together[index]
            assert torch.allclose(same, alone, atol=1e-4), index


@own_model
def test_frames_are_counted_from_the_mask(case: str) -> None:
    network, batch = model(case, CTC), padded(case)
    batch.pop("labels")
    with torch.no_grad():
        lengths = network(**batch).frame_lengths.tolist()
        for index, count in enumerate(batch["attention_mask"].sum(-1).tolist()):
            alone = batch[network.main_input_name][index : index + 1, :count]
            assert network(**{network.main_input_name: alone}).logits.shape[1] == lengths[index]


@own_model
@pytest.mark.parametrize("auto", ["AutoModel", CTC, CLASSES])
def test_saved_and_loaded_by_the_auto_classes_it_gives_the_same(case: str, auto: str, tmp_path: Path) -> None:
    set_up_transformers()
    family, _ = CASES[case]
    batch = padded(case)
    batch.pop("labels")
    config = tf.AutoConfig.from_pretrained(backbone(case).location(), **HEAD)
    assert config.model_type == family
    network = getattr(tf, auto).from_config(config).eval()
    network.save_pretrained(tmp_path)
    again = getattr(tf, auto).from_pretrained(tmp_path).eval()
    assert type(again) is type(network) and type(again).__module__ == f"harness.backbones.models.{family}"
    before, after = network.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    with torch.no_grad():  # where weights lie in memory decides the last bit of a matrix product
        assert torch.allclose(again(**batch)[0], network(**batch)[0], atol=1e-6, rtol=1e-5)


@own_model
def test_a_head_takes_over_the_weights_of_a_saved_base(case: str) -> None:
    saved = tf.AutoModel.from_pretrained(backbone(case).location()).state_dict()
    for auto in (CTC, CLASSES):
        taken = base_of(model(case, auto)).state_dict()
        assert saved.keys() == taken.keys() and all(torch.equal(saved[k], taken[k]) for k in saved)


@pytest.mark.parametrize("family", ["wavenet", "deepspeech"])
def test_registering_twice_does_no_harm(family: str) -> None:
    from harness.backbones.family import Family

    for _ in range(2):
        plugins("backbones", Family)[family].register()
    assert tf.AutoConfig.for_model(family).model_type == family


@every_model
def test_the_ctc_loss_ignores_padding_of_labels_and_targets_that_do_not_fit(case: str) -> None:
    """-100 is no label; an example with more labels than frames has loss and gradient zero."""
    network, batch = model(case, CTC), padded(case)
    labels = torch.tensor([[1, 2, 2], [3, -100, -100], [4, 5, -100]])
    short = network(**{**batch, "labels": labels}).loss
    wider = torch.nn.functional.pad(labels, (0, 4), value=-100)
    assert torch.isclose(network(**{**batch, "labels": wider}).loss, short)
    impossible = torch.randint(1, 6, (3, 500))
    loss = network(**{**batch, "labels": impossible}).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("wavenet", {"stride": 3}, "multiple"),
        ("wavenet", {"kernel_size": 2}, "odd"),
        ("deepspeech", {"front": "spectrum"}, "convolution"),
        ("deepspeech", {"cell": "sru"}, "gru"),
    ],
)
def test_impossible_settings_are_told(family: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Untrained(family=family, changes=changes).location()


# -- ladders ---------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("auto", [CTC, CLASSES])
def test_every_weight_is_on_one_rung_or_in_the_head_and_none_is_idle(case: str, auto: str) -> None:
    network = model(case, auto)
    ladder = build_ladder(network)
    parts = [*ladder.rungs, ladder.head]
    listed = [name for part in parts for name, _ in part.parameters]
    assert sorted(listed) == sorted(name for name, _ in network.named_parameters())
    assert all(part.size > 0 for part in parts)
    batch = padded(case)
    labels = torch.tensor([[1, 2], [3, 1], [2, 5]]) if auto == CTC else torch.tensor([0, 1, 2])
    network.train()(**{**batch, "labels": labels}).loss.backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert idle <= {"wav2vec2.masked_spec_embed", "hubert.masked_spec_embed"}


@every_model
def test_a_frozen_prefix_stays_as_it_is_and_the_rest_trains(case: str) -> None:
    for depth in range(len(build_ladder(model(case, CTC)).rungs) + 1):
        network, batch = model(case, CTC), padded(case)
        ladder = build_ladder(network)
        ladder.freeze(depth)
        batch["labels"] = torch.tensor([[1, 2], [3, 1], [2, 5]])
        leaving = [leaves(network, ladder, depth, batch)]
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        ladder.train(network, range(depth))
        network(**batch).loss.backward()
        optimizer.step()
        leaving.append(leaves(network, ladder, depth, batch))
        assert torch.equal(*leaving), depth
        trained = [p for rung in [*ladder.rungs[depth:], ladder.head] for _, p in rung.parameters]
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def leaves(network: Any, ladder: Any, depth: int, batch: dict[str, Any]) -> torch.Tensor:
    """What the first block that is not frozen is given; with every rung frozen, what the head is given."""
    frozen = depth == len(ladder.rungs)
    target = ladder.head.modules[-1] if frozen else ladder.rungs[depth].blocks[0] if depth else None
    if target is None:
        return torch.zeros(())
    seen: list[torch.Tensor] = []
    hook = target.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    ladder.train(network, range(depth))
    with torch.no_grad():
        network(**batch)
    hook.remove()
    return seen[0]


@own_model
def test_every_rung_leaves_what_it_has_computed(case: str) -> None:
    """The first output of a block is not its input passed on: what is measured there is the rung's own."""
    network, batch = model(case, CTC), padded(case)
    batch.pop("labels")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for rung in build_ladder(network).rungs[1:]:
        rung.blocks[-1].register_forward_hook(
            lambda _, args, out: seen.append((args[0], out[0] if isinstance(out, tuple) else out))
        )
    with torch.no_grad():
        network(**batch)
    assert len(seen) == len(build_ladder(network).rungs) - 1
    assert not any(given.shape == left.shape and torch.equal(given, left) for given, left in seen)


@pytest.mark.parametrize(("case", "rung"), [("wav2vec2", 3), ("wav2vec2-postnorm", 0), ("hubert", 3)])
def test_the_encoders_norm_is_on_the_rung_where_it_runs(case: str, rung: int) -> None:
    rungs = build_ladder(model(case, CTC)).rungs
    found = [
        i for i, part in enumerate(rungs) for name, _ in part.parameters if ".encoder.layer_norm." in name
    ]
    assert found == [rung, rung]


# -- the shipped tasks -----------------------------------------------------------------------------

SHIPPED = {
    "clean": (KeypadTones, {"condition": "clean"}),
    "noisy": (KeypadTones, {"condition": "noisy"}),
    "clipped": (KeypadTones, {"condition": "clipped"}),
    "strings": (KeypadStrings, {}),
}


@cache
def shipped(name: str) -> tuple[Any, Any, Facts]:
    kind, settings = SHIPPED[name]
    task = build(kind, {**settings, "train_size": 160, "validation_size": 48, "test_size": 48}, name)
    splits = task.load(name)
    return task, splits, task.facts(splits, name)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sounds_are_distinct_and_the_same_again(name: str) -> None:
    task, splits, facts = shipped(name)
    sounds = [sound for split in splits.values() for sound in split["audio"][:]]
    assert len(set(sounds)) == len(sounds) == 256
    assert content_hash(task.load(name)) == facts.fingerprint
    if name == "strings":
        said = [text for split in splits.values() for text in split["transcription"][:]]
        assert len(set(said)) == len(said)
        assert facts.classes == list(" 0123456789")
    else:
        assert sorted(facts.classes) == sorted(TONES)


def test_the_conditions_are_different_data() -> None:
    assert len({shipped(name)[2].fingerprint for name in SHIPPED}) == len(SHIPPED)


@pytest.mark.parametrize("key", ["1", "6", "*", "D"])
def test_a_key_is_its_two_tones(key: str) -> None:
    from harness.tasks.keypad import press

    spectrum = np.abs(np.fft.rfft(press(key, 0.5, np.random.default_rng(0))))
    frequencies = np.fft.rfftfreq(4000, 1 / RATE)
    low = frequencies[np.argmax(np.where(frequencies < 1075, spectrum, 0))]
    high = frequencies[np.argmax(np.where(frequencies > 1075, spectrum, 0))]
    assert (low, high) == pytest.approx(TONES[key], rel=0.02)


@pytest.mark.parametrize("name", SHIPPED)
def test_perfect_answers_score_perfect_and_constant_ones_badly(name: str) -> None:
    task, splits, facts = shipped(name)
    truth = task.references(splits["test"], facts)
    perfect = task.score([{"prediction": said} for said in task.perfect(truth)], truth, facts)
    if name == "strings":
        assert task.metric_names == ("wer", "cer") and not task.higher_is_better
        assert perfect == {"wer": 0, "cer": 0} and facts.constant["test"] == {"wer": 1, "cer": 1}
    else:
        assert perfect == {"accuracy": 1, "macro_f1": 1} and facts.constant["test"]["accuracy"] < 0.2


@pytest.mark.parametrize("name", ["clean", "strings"])
@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavenet", "deepspeech"])
def test_every_family_reads_the_shipped_tasks(name: str, family: str) -> None:
    """From files to a loss and to predictions in the metrics' form."""
    task, splits, facts = shipped(name)
    chosen = Untrained(family=family)
    processor = task.processor(chosen)
    rows = task.encode(splits["test"].select(range(5)), processor, facts, None)
    network = chosen.model(task.auto_class, processor, task.head(facts))
    examples = rows.remove_columns(LENGTH).to_list()
    with torch.no_grad():
        outputs = network(**task.collate(processor)(examples, None))
    assert torch.isfinite(outputs.loss)
    said = task.predict(outputs, examples, facts)
    truth = task.references(splits["test"].select(range(5)), facts)
    assert len(said) == 5 and task.score(said, truth, facts).keys() == set(task.metric_names)


def test_greedy_decoding_merges_repeats_and_drops_blanks() -> None:
    classes = list(" ab")
    assert spelled(np.array([0, 2, 2, 0, 2, 3, 3, 1, 1, 3, 0]), classes) == "aab b"
    assert spelled(np.array([0, 1, 0]), classes) == "", "no space at the ends"


def test_frames_of_a_model_that_does_not_say_are_in_proportion() -> None:
    class Outputs:
        logits = torch.zeros(3, 20, 4)

    assert frame_lengths(Outputs(), [{"shape": [n]} for n in (1600, 800, 1)]) == [20, 10, 1]


# -- a user's own sounds ---------------------------------------------------------------------------


def tone(path: Path, hertz: float, seconds: float = 0.2, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
    return path


def own(kind: str, dataset: dict[str, Any], **settings: Any) -> Any:
    located = sources.locate(dataset, [Path.cwd()], "dataset")
    return build(plugins("tasks", Task)[kind], {"dataset": located, **settings}, "own")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Sub-folders of classes, twelve sounds each, of several rates, channels and formats."""
    for index in range(12):
        rate, suffix = (8000, "wav") if index % 2 else (16000, "flac")
        for label, hertz in (("low", 300), ("high", 1500)):
            path = tmp_path / "sounds" / label / f"{index}.{suffix}"
            tone(path, hertz + index, 0.1 + index / 100, rate, 1 + index % 3 % 2)
    return tmp_path / "sounds"


def test_a_folder_of_class_folders_is_a_task(folders: Path) -> None:
    task = own("audio-classification", {"path": "audiofolder", "data_dir": str(folders)})
    splits = task.load()
    facts = task.facts(splits)
    assert facts.classes == ["high", "low"] and sum(facts.sizes.values()) == 24
    processor = task.processor(Untrained(family="wav2vec2"))
    remarks = task.remarks(splits["train"], processor)
    assert remarks == [
        "some sounds of 16000 Hz are resampled to the model's 8000 Hz",
        "the channels of some sounds are mixed to one",
    ]
    rows = task.encode(splits["train"], processor, facts, None)
    seconds = sorted(len(decode(data)[0]) / decode(data)[1] for data in splits["train"]["audio"][:])
    assert sorted(length / RATE for length in rows[LENGTH]) == pytest.approx(seconds, abs=1e-3)


def test_resampling_keeps_the_pitch(tmp_path: Path) -> None:
    task = build(plugins("tasks", Task)["audio-classification"], {}, "task")
    data = tone(tmp_path / "a.wav", 1000, 0.5, rate=22050, channels=2).read_bytes()
    wave = task.wave(data, RATE)
    assert len(wave) == 4000 and wave.dtype == np.float32
    assert np.abs(np.fft.rfft(wave)).argmax() * 2 == 1000
    assert np.abs(wave).max() == pytest.approx(0.3, abs=0.03)


def test_content_and_not_place_or_name_is_hashed(folders: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        task = own("audio-classification", {"path": "audiofolder", "data_dir": str(folder)})
        return str(task.facts(task.load()).fingerprint)

    before = fingerprint(folders)
    moved = folders.rename(tmp_path / "elsewhere")
    assert fingerprint(moved) == before
    tone(moved / "low" / "3.wav", 444)
    assert fingerprint(moved) != before, "the file is the same, what it holds is not"


@pytest.mark.parametrize("form", ["metadata.csv", "metadata.jsonl", "table", "absolute"])
def test_sounds_with_transcripts_are_a_task(form: str, tmp_path: Path) -> None:
    """An audiofolder with its metadata file, or a table of paths from its own folder on."""
    import pandas as pd

    names = [f"clips/{index}.wav" for index in range(20)]
    files = [tone(tmp_path / "data" / name, 300 + 10 * i) for i, name in enumerate(names)]
    said = [f"{'Ja' if index % 2 else 'Nein'}  {index % 3}" for index in range(20)]
    column = "audio" if form in ("table", "absolute") else "file_name"
    frame = pd.DataFrame({column: files if form == "absolute" else names, "transcription": said}).astype(str)
    name = form if "." in form else "list.csv"
    table = tmp_path / "data" / name
    frame.to_json(table, orient="records", lines=True) if "json" in name else frame.to_csv(table, index=False)
    dataset: dict[str, Any] = {"path": "audiofolder", "data_dir": str(tmp_path / "data")}
    if column == "audio":
        dataset = {"path": "csv", "data_files": {"train": str(table)}}
    task = own("automatic-speech-recognition", dataset, lowercase=True)
    splits = task.load()
    facts = task.facts(splits)
    assert facts.classes == sorted(set("ja nein 012"))
    assert set(task.references(splits["train"], facts)) <= {
        f"{w} {n}" for w in ("ja", "nein") for n in range(3)
    }
    assert task.head(facts)["vocab_size"] == len(facts.classes) + 1


def broken(tmp_path: Path, **settings: Any) -> Any:
    """A table of ten sounds, of which some have faults."""
    import pandas as pd

    rows = [(f"{i}.wav", "one two") for i in range(10)]
    for name, _ in rows:
        tone(tmp_path / name, 500)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    (tmp_path / "damaged.wav").write_bytes(b"RIFF no sound at all")
    soundfile.write(tmp_path / "nan.wav", np.full(900, np.nan), RATE, subtype="FLOAT")
    tone(tmp_path / "long.wav", 500, seconds=3)
    rows[2:7] = [("empty.wav", "one"), ("damaged.wav", "two"), ("missing.wav", "one"), ("nan.wav", "two"),
                 ("long.wav", "one")]  # fmt: skip
    rows += [("7.wav", None), ("8.wav", "one, tw@")]
    train = tmp_path / "train.csv"
    pd.DataFrame(rows, columns=["audio", "transcription"]).to_csv(train, index=False)
    sound = tmp_path / "sound.csv"
    pd.DataFrame([("0.wav", "one"), ("1.wav", "two")], columns=["audio", "transcription"]).to_csv(
        sound, index=False
    )
    files = {"train": str(train), "validation": str(sound), "test": str(sound)}
    settings = {"vocabulary": " enotw", "max_seconds": 2.0, **settings}
    return own("automatic-speech-recognition", {"path": "csv", "data_files": files}, **settings)


@pytest.mark.parametrize(
    ("row", "file", "reason"),
    [
        (2, "empty.wav", "zero length"),
        (3, "damaged.wav", "cannot be read"),
        (4, "missing.wav", "cannot be read"),
        (5, "nan.wav", "NaN"),
        (6, "long.wav", "3.0 s, longer than max_seconds"),
        (10, "7.wav", "has no transcript ('transcription', "),
        (11, "8.wav", "has symbols outside the vocabulary: ',', '@' ('transcription', "),
    ],
)
def test_faults_name_row_file_and_reason(
    row: int, file: str, reason: str, tmp_path: Path, monkeypatch: Any
) -> None:
    from harness.tasks import base

    monkeypatch.setattr(base, "_SHOWN_FAULTS", 20)
    with pytest.raises(InputError) as raised:
        broken(tmp_path).load()
    told = [m.reason for m in raised.value.mistakes if m.reason.startswith(f"row {row} of the train split")]
    assert len(told) == 1 and reason in told[0] and file in told[0]


def test_symbols_that_train_never_shows_are_told(tmp_path: Path) -> None:
    """Unless `vocabulary` lists them: nothing can be learned of them."""
    import pandas as pd

    files = {}
    for split, said in (("train", "ab"), ("validation", "ba"), ("test", "ab c")):
        tone(tmp_path / f"{split}.wav", 500)
        files[split] = str(tmp_path / f"{split}.csv")
        pd.DataFrame({"audio": [f"{split}.wav"], "transcription": [said]}).to_csv(files[split], index=False)
    dataset = {"path": "csv", "data_files": files}
    task = own("automatic-speech-recognition", dataset)
    with pytest.raises(InputError) as raised:
        task.facts(task.load())
    reasons = [mistake.reason for mistake in raised.value.mistakes]
    assert reasons == [f"the symbol '{symbol}' is missing from train" for symbol in " c"]
    assert all("vocabulary" in mistake.hint for mistake in raised.value.mistakes)
    task = own("automatic-speech-recognition", dataset, vocabulary=" abc")
    assert task.facts(task.load()).classes == list(" abc")


def test_faulty_sounds_are_left_out_and_counted_when_asked(tmp_path: Path) -> None:
    task = broken(tmp_path, on_bad_example="skip")
    splits = task.load()
    facts = task.facts(splits)
    assert facts.skipped == {"train": 7} and facts.sizes["train"] == 5


def test_long_sounds_are_cut_for_classification(folders: Path) -> None:
    dataset = {"path": "audiofolder", "data_dir": str(folders)}
    task = own("audio-classification", dataset, max_seconds=0.15)
    splits = task.load()
    rows = task.encode(
        splits["train"], task.processor(Untrained(family="wav2vec2")), task.facts(splits), None
    )
    assert max(rows[LENGTH]) == 0.15 * RATE


@pytest.mark.parametrize("family", ["wav2vec2", "wavenet", "deepspeech"])
def test_sounds_shorter_than_a_window_and_silence_are_read(family: str) -> None:
    task = build(plugins("tasks", Task)["audio-classification"], {}, "task")
    chosen = Untrained(family=family)
    processor = task.processor(chosen)
    network = chosen.model(CLASSES, processor, task.head(FACTS)).eval()
    for wave in (np.full(1, 0.1), np.zeros(4000)):
        rows = task.encode(one_row(wave), processor, FACTS, None).remove_columns(LENGTH).to_list()
        assert torch.isfinite(network(**task.collate(processor)(rows, None)).logits).all()


def test_a_path_in_several_folders_is_not_guessed(tmp_path: Path) -> None:
    import pandas as pd

    for part in ("a", "b"):
        tone(tmp_path / part / "1.wav", 500)
        pd.DataFrame({"audio": ["1.wav"], "label": [part]}).to_csv(tmp_path / part / "list.csv", index=False)
    task = own("audio-classification", {"path": "csv", "data_files": {"train": str(tmp_path / "*/list.csv")}})
    with pytest.raises(InputError, match=r"1\.wav"):
        task.load()


# -- augmentation ----------------------------------------------------------------------------------

VARIED = {"gain": [-6, 6], "noise": [0, 10], "shift": 0.05}


@pytest.mark.parametrize("family", ["wavenet", "deepspeech"])
def test_augmentation_depends_on_the_generator_alone_and_evaluation_on_nothing(family: str) -> None:
    plain = build(KeypadTones, {"train_size": 20, "validation_size": 16, "test_size": 16}, "plain")
    varied = plain.model_copy(update={"augmentation": build(Augmentation, VARIED, "augmentation")})
    assert varied.augments and not plain.augments and varied.identity() != plain.identity()
    splits = plain.load()
    facts = plain.facts(splits)
    processor = plain.processor(Untrained(family=family))
    rows, still = (t.encode(splits["test"].select(range(3)), processor, facts, None) for t in (varied, plain))
    rows, still = rows.to_list(), still.to_list()
    collate, name = varied.collate(processor), processor.model_input_names[0]

    def seen(rows: list[Any], seeds: list[int] | None) -> torch.Tensor:
        rngs = None if seeds is None else [np.random.default_rng(seed) for seed in seeds]
        found: torch.Tensor = collate(rows, rngs)[name]
        return found

    assert torch.equal(seen(rows, [1, 2, 3]), seen(rows, [1, 2, 3]))
    alone = seen(rows[1:2], [2])[0]
    assert torch.equal(seen(rows, [1, 2, 3])[1][: len(alone)], alone), "whatever its neighbours"
    assert not torch.equal(seen(rows, [1, 2, 3]), seen(rows, [4, 5, 6]))
    assert torch.equal(seen(rows, None), plain.collate(processor)(still, None)[name])


def test_augmentation_does_what_it_says() -> None:
    wave, rng = np.sin(np.arange(8000)).astype(np.float32), np.random.default_rng(0)
    louder = Augmentation(gain=(6.0, 6.0)).apply(wave, RATE, rng)
    assert np.std(louder) / np.std(wave) == pytest.approx(10**0.3, rel=1e-3)
    noise = Augmentation(noise=(10.0, 10.0)).apply(wave, RATE, rng) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.3)
    shifted = Augmentation(shift=0.1).apply(wave, RATE, rng)
    assert len(shifted) == 8800 and np.abs(shifted).sum() == pytest.approx(np.abs(wave).sum())
    with pytest.raises(InputError, match=r"augmentation\.gain"):
        build(Augmentation, {"gain": [3, 1]}, "augmentation")


# -- error rates -----------------------------------------------------------------------------------


def test_error_rates_by_hand() -> None:
    """One word of five is wrong and one is too many; by characters one is wrong and two are too many."""
    truth, said = ["one two", "three four five"], ["one too", "three four five a"]
    assert scorer.score(["wer"], said, truth, {}) == {"wer": pytest.approx(2 / 5)}
    assert scorer.score(["cer"], said, truth, {}) == {"cer": pytest.approx(3 / 22)}
    assert scorer.score(["wer"], said, truth, {})["wer"] == pytest.approx(jiwer.wer(truth, said))
    assert scorer.score(["cer"], said, truth, {})["cer"] == pytest.approx(jiwer.cer(truth, said))
    assert not scorer.higher_is_better("wer") and not scorer.higher_is_better("cer")


def test_empty_references_count_what_is_inserted() -> None:
    assert scorer.score(["wer", "cer"], ["a", "b c"], ["", "b c"], {}) == {"wer": 0.5, "cer": 1 / 3}
    assert scorer.score(["wer", "cer"], ["", ""], ["", ""], {}) == {"wer": 0, "cer": 0}
    assert scorer.score(["wer"], ["a b"], [""], {}) == {"wer": 2}
    assert scorer.score(["wer"], ["", ""], ["a", "b c"], {}) == {"wer": 1}


def test_wav_bytes_are_read_back() -> None:
    samples, rate = decode(wav(np.linspace(-0.5, 0.5, 800)))
    assert rate == RATE and samples.shape == (800, 1)
    assert np.abs(samples[:, 0] - np.linspace(-0.5, 0.5, 800)).max() < 1e-4
