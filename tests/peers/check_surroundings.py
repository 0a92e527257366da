"""Hard surroundings, really tried: full disks, a shared memory of a few kilobytes, missing rights, a clock that jumps.

    python tests/peers/check_surroundings.py [CASE …]

Linux only. The script starts itself anew in a mount namespace (`unshare --map-root-user --mount`), where anyone may mount a
small tmpfs. For missing rights, commands lose all capabilities (`setpriv`), since root may read everything. Each command must
end with an exit status of ours and a sentence that names the file or the remedy, without a traceback. What was written before
must be unchanged. When the trouble is over, the same command must do its work and leave no temporary file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests")]

NO_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
_NEW_MOUNTS = ["unshare", "--map-root-user", "--mount"]
_INSIDE = "BEIT_CHECK_SURROUNDINGS"

Case = Callable[[Path, Path], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case: (folder with inputs, empty folder of its own)."""
    CASES[function.__name__.strip("_")] = function
    return function


class Failed(Exception):
    """A command did not do what it should."""


# --- commands and folders --------------------------------------------------------------------------------------------


def beit(
    *arguments: Any,
    status: int = 0,
    says: tuple[str, ...] = (),
    rights: bool = True,
    code: str = "",
    stdout: Any = subprocess.PIPE,
    **environment: str,
) -> str:
    """Run a command; raises Failed unless it ends with `status`, says all of `says` on stderr and shows no traceback.

    Args:
        arguments: of `beit`.
        status: the exit status wanted.
        says: texts wanted on stderr.
        rights: False takes all capabilities away.
        code: runs before `beit`.
        stdout: where its output goes.
        environment: more variables.

    Returns:
        What it said on stderr.
    """
    program = f"import sys\n{code}\nfrom beit.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [*([] if rights else NO_RIGHTS), sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    wrong = [f"does not say {text!r}" for text in says if text not in done.stderr]
    wrong += [f"says {text!r}" for text in ("Traceback", ": unexpected ", "Exception ignored") if text in done.stderr]
    if done.returncode != status:
        wrong.append(f"exit status {done.returncode}, wanted {status}")
    if wrong:
        raise Failed(f"beit {' '.join(map(str, arguments))}\n  {'; '.join(wrong)}\n{done.stderr[-3000:]}")
    return done.stderr


def options(**values: Any) -> list[str]:
    """`--name value` for each."""
    return [str(text) for name, value in values.items() for text in (f"--{name.replace('_', '-')}", value)]


def small_disk(folder: Path, size: str) -> None:
    """Mount a disk of this size, or give the one that is there this size."""
    again = (
        ["-o", f"remount,size={size}"] if os.path.ismount(folder) else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    )
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *again, folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a disk but for `left` bytes; returns the file to remove."""
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    filler.write_bytes(bytes(max(free - left, 0)))
    return filler


def content(folder: Path) -> dict[str, str]:
    """File → hash of its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "filler")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kept(
    before: dict[str, str], folder: Path, growing: tuple[str, ...] = ("log.jsonl", "alarms.jsonl", "settings.json")
) -> None:
    """Raises Failed when a file that was there is gone or changed. Logs grow."""
    now = content(folder)
    fixed = (name for name in before if Path(name).name not in growing and "tensorboard" not in name)
    lost = [name for name in fixed if now.get(name) != before[name]]
    if lost:
        raise Failed(f"lost or changed: {lost}")


def clean(folder: Path) -> None:
    """Raises Failed when there is a temporary file."""
    left = [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == ".lock"]
    if left:
        raise Failed(f"temporary files are left: {left}")


def losses(output: Path) -> list[tuple[int, float]]:
    """(step, loss) of each line of a log."""
    return [(line["step"], line["loss"]) for line in map(json.loads, (output / "log.jsonl").read_text().splitlines())]


def prepare(folder: Path) -> None:
    """Images, label maps, a tokenizer, models."""
    from fixtures_runs import save_classifier, save_small_model, save_tokenizer, write_images
    from fixtures_segment import save_segmenter, write_segmented

    write_images(folder / "images", 40, spread=2)
    write_images(folder / "classes", 40, spread=2, labelled=True)
    write_segmented(folder / "segmented", 6)
    save_tokenizer(folder / "tokenizer")
    save_small_model(folder / "model")
    save_classifier(folder / "classifier")
    save_segmenter(folder / "segmenter")


def pretraining(inputs: Path, output: Path, **values: Any) -> list[str]:
    """`pretrain …` for a run of 12 steps with a checkpoint every second one."""
    usual: dict[str, Any] = {name: inputs / name for name in ("images", "tokenizer", "model")}
    usual |= {"steps": 12, "batch_size": 8, "save_every": 2, "keep": 9, "log_every": 1, "workers": 0}
    return ["pretrain", *options(**{**usual, "precision": "fp32", "output": output, **values})]


# --- full disks ------------------------------------------------------------------------------------------------------


@case
def _full_disk_pretrain(inputs: Path, folder: Path) -> None:
    beit(*pretraining(inputs, folder / "whole"))
    disk = folder / "disk"
    small_disk(disk, "1m")
    command = pretraining(inputs, disk / "run")
    said = beit(*command, status=1, says=("could not be written", "No space left", "--resume"))
    assert "checkpoint-" in said, said
    before = content(disk / "run")
    found = sorted(path.name for path in (disk / "run").glob("checkpoint-*"))
    assert 1 <= len(found) < 6, found
    clean(disk)
    # Still full: the same again, and nothing is lost.
    beit(*command, "--resume", status=1, says=("No space left",))
    kept(before, disk / "run")
    clean(disk)
    small_disk(disk, "64m")
    beit(*command, "--resume", "must")
    kept(before, disk / "run")
    clean(disk)
    if losses(disk / "run") != losses(folder / "whole"):
        raise Failed("other losses than the undisturbed run's")


@case
def _full_disk_log(inputs: Path, folder: Path) -> None:
    """The disk is full to the last page: the log's next line does not fit."""
    disk = folder / "disk"
    small_disk(disk, "8m")
    command = pretraining(inputs, disk / "run", steps=4)
    beit(*command)
    before = content(disk / "run")
    filler = fill(disk, 0)
    longer = pretraining(inputs, disk / "run", steps=60, save_every=50)
    beit(*longer, "--resume", status=1, says=("could not be written",))
    kept(before, disk / "run")
    filler.unlink()
    beit(*longer, "--resume")
    assert len(losses(disk / "run")) == 60
    clean(disk)


@case
def _full_disk_finetune(inputs: Path, folder: Path) -> None:
    disk = folder / "disk"
    small_disk(disk, "700k")
    values: dict[str, Any] = {"images": inputs / "classes", "model": inputs / "model", "output": disk / "run"}
    values |= {"steps": 8, "batch_size": 8, "save_every": 2, "keep": 9, "workers": 0, "validation": inputs / "classes"}
    command = ["finetune", *options(**values)]
    beit(*command, status=1, says=("could not be written", "No space left"))
    before = content(disk)
    clean(disk)
    small_disk(disk, "64m")
    beit(*command, "--resume")
    kept(before, disk)
    clean(disk)


@case
def _full_disk_tokenize(inputs: Path, folder: Path) -> None:
    disk = folder / "disk"
    small_disk(disk, "16k")
    values = {"images": inputs / "images", "tokenizer": inputs / "tokenizer", "model": inputs / "model"}
    command = ["tokenize", *options(**values, output=disk / "tokens", crops=40, workers=0)]
    beit(*command, status=1, says=("could not be written", "No space left"))
    clean(disk)
    small_disk(disk, "8m")
    beit(*command)
    clean(disk)


@case
def _full_disk_embed(inputs: Path, folder: Path) -> None:
    disk = folder / "disk"
    small_disk(disk, "64k")
    for suffix in ("npy", "parquet"):
        command = [
            "embed",
            *options(model=inputs / "classifier", images=inputs / "images", output=disk / f"x.{suffix}"),
        ]
        filler = fill(disk, 0)
        beit(*command, status=1, says=("could not be written", "No space left"))
        clean(disk)
        filler.unlink()
        beit(*command)
        clean(disk)


@case
def _full_disk_output(inputs: Path, folder: Path) -> None:
    """What a command prints goes into a file on a full disk."""
    disk = folder / "disk"
    small_disk(disk, "64k")
    fill(disk, 0)
    for more in ([], ["--json"]):
        with open(disk / "answers", "w") as file:
            command = ["predict", inputs / "images", "--model", inputs / "classifier", *more]
            beit(*command, status=1, says=("No space left",), stdout=file)
        with open("/dev/full", "w") as file:
            beit(*command, status=1, says=("No space left",), stdout=file)
    with open("/dev/full", "w") as file:
        beit("--help", status=1, says=("No space left",), stdout=file)
        beit("inspect", inputs / "model", status=1, says=("No space left",), stdout=file)


@case
def _full_disk_reports(inputs: Path, folder: Path) -> None:
    disk = folder / "disk"
    maps = {"images": inputs / "segmented/images", "maps": inputs / "segmented/maps"}
    commands = {
        "segment evaluate": ["segment", "evaluate", *options(model=inputs / "segmenter", **maps)],
        "segment predict": ["segment", "predict", inputs / "segmented/images", *options(model=inputs / "segmenter")],
        "probe": [
            *["probe", *options(model=inputs / "classifier", images=inputs / "classes", validation=inputs / "classes")]
        ],
    }
    for left in (0, 4096, 20_000):
        for name, command in commands.items():
            small_disk(disk, "256k")
            filler = fill(disk, left)
            output = disk / name.replace(" ", "-")
            beit(*command, "--output", output, status=1, says=("No space left",))
            clean(disk)
            filler.unlink()
            small_disk(disk, "16m")
            if name == "segment predict":  # it never overwrites label maps; the message says to remove them
                shutil.rmtree(output, ignore_errors=True)
            beit(*command, "--output", output)
            clean(disk)
            subprocess.run(["umount", disk], check=True)


@case
def _full_disk_convert(inputs: Path, folder: Path) -> None:
    disk = folder / "disk"
    small_disk(disk, "40k")
    for command in (
        ["convert", inputs / "classifier", disk / "converted", "--to", "timm"],
        ["resize", inputs / "classifier", disk / "resized", "--image-size", "32"],
    ):
        beit(*command, status=1, says=("No space left",))
        clean(disk)
    small_disk(disk, "8m")
    beit("resize", inputs / "classifier", disk / "resized", "--image-size", "32")
    clean(disk)


@case
def _full_disk_download(inputs: Path, folder: Path) -> None:
    """The cache of downloads is on the full disk."""
    model = inputs / "classifier"

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            path = model / self.path.partition("?")[0].rpartition("/")[2]
            there = path.is_file()
            body = path.read_bytes() if there else b""
            self.send_response(200 if there else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            if not there:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    disk = folder / "disk"
    small_disk(disk, "40k")
    hub = {"HF_HOME": str(disk / "cache"), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    hub |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0"}
    beit("inspect", "owner/name", status=1, says=("No space left",), **hub)
    small_disk(disk, "8m")
    beit("inspect", "owner/name", **hub)
    server.shutdown()


# --- little shared memory --------------------------------------------------------------------------------------------


@case
def _little_shared_memory(inputs: Path, folder: Path) -> None:
    """A container has 64 MB of it, which may be full."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)
    try:
        values = {"workers": 2, "batch_size": 40, "image_size": 64, "model": "tiny", "patch_size": 8}
        command = pretraining(inputs, folder / "run", **values)
        beit(*command, status=1, says=("/dev/shm", "--workers"))
        clean(folder)
        beit(*pretraining(inputs, folder / "run", **{**values, "workers": 0}), "--resume")
        clean(folder)
        tokens = {"images": inputs / "images", "tokenizer": inputs / "tokenizer", "model": "tiny", "image_size": 64}
        tokens |= {"patch_size": 8, "workers": 2, "crops": 10, "output": folder / "tokens"}
        beit("tokenize", *options(**tokens), status=1, says=("/dev/shm", "--workers"))
        beit("tokenize", *options(**{**tokens, "workers": 0}))
        clean(folder)
    finally:
        subprocess.run(["umount", "/dev/shm"], check=True)


# --- a user without rights -------------------------------------------------------------------------------------------


@case
def _no_rights_to_write(inputs: Path, folder: Path) -> None:
    (folder / "mine").mkdir(mode=0o555)
    for output in (folder / "mine/run", folder / "mine"):
        beit(*pretraining(inputs, output), status=1, says=("Nothing can be written in",), rights=False)
    output = folder / "run"
    beit(*pretraining(inputs, output, steps=4))
    before = content(output)
    longer = pretraining(inputs, output, steps=8)
    for name, mode in ((".", 0o555), ("log.jsonl", 0o000), ("tensorboard", 0o555)):
        path = output / name
        usual = path.stat().st_mode
        path.chmod(mode)
        try:
            beit(*longer, "--resume", status=1, says=(str(path.resolve()),), rights=False)
        finally:
            path.chmod(usual)
        kept(before, output)
        clean(output)
    settings = output / "settings.json"  # --resume begins with these
    settings.chmod(0o000)
    beit(*longer, "--resume", status=1, says=(str(settings.resolve()),), rights=False)
    settings.chmod(0o644)
    beit(*longer, "--resume", rights=False)
    for command in (
        ["embed", *options(model=inputs / "classifier", images=inputs / "images", output=folder / "mine/x.npy")],
        ["tokenize", *options(images=inputs / "images", tokenizer=inputs / "tokenizer", output=folder / "mine/tokens")],
        ["convert", inputs / "classifier", folder / "mine/converted", "--to", "timm"],
        ["segment", "predict", inputs / "images", *options(model=inputs / "segmenter", output=folder / "mine/maps")],
        ["probe", *options(model=inputs / "classifier", images=inputs / "classes", output=folder / "mine/probe")],
    ):
        beit(*command, status=1, says=(str(folder / "mine"),), rights=False)


@case
def _no_rights_to_read(inputs: Path, folder: Path) -> None:
    shutil.copytree(inputs, folder / "in")
    inputs = folder / "in"
    for path in (
        inputs / "model/model.safetensors",
        inputs / "model/config.json",
        inputs / "model",
        inputs / "tokenizer/config.json",
        inputs / "images",
    ):
        usual = path.stat().st_mode
        path.chmod(0o000)
        output = folder / "run"
        beit(*pretraining(inputs, output), status=1, says=("ermission denied", str(path)), rights=False)
        path.chmod(usual)
    # One image of forty: it is left out and named.
    image = sorted((inputs / "images").iterdir())[3]
    image.chmod(0o000)
    beit(*pretraining(inputs, folder / "run"), says=("1 images were skipped", image.name), rights=False)
    values = {"images": inputs / "classes", "model": inputs / "model", "output": folder / "tuned", "steps": 2}
    values |= {"batch_size": 8, "workers": 0}
    flat = inputs / "classes/flat"
    flat.chmod(0o000)
    beit("finetune", *options(**values), status=1, says=(str(flat), "ermission denied"), rights=False)
    flat.chmod(0o755)
    # A checkpoint that this user may not read: an older one takes its place, or an error says why not.
    output = folder / "run"
    newest, older = output / "checkpoint-000012", output / "checkpoint-000010"
    (newest / "optimizer.pt").chmod(0o000)
    longer = pretraining(inputs, output, steps=14)
    beit(
        *longer, "--resume", says=("passed over for an older one, checkpoint-000010", "ermission denied"), rights=False
    )
    clean(output)
    for path in output.glob("checkpoint-*"):
        path.chmod(0o000)
    beit(*longer, "--resume", status=1, says=("No checkpoint can be read", "ermission denied"), rights=False)
    for path in output.glob("checkpoint-*"):
        path.chmod(0o755)
    assert older.is_dir()


# --- a clock that jumps ----------------------------------------------------------------------------------------------

_JUMPING = """
import random, time
real, jumps = time.time, random.Random(0)
time.time = lambda: real() + jumps.uniform(-1e5, 1e5)
"""


@case
def _jumping_clock(inputs: Path, folder: Path) -> None:
    """By up to a day, in both directions, at every look: in a log without and with a terminal."""
    beit(*pretraining(inputs, folder / "whole"))
    beit(*pretraining(inputs, folder / "run"), code=_JUMPING)
    if losses(folder / "run") != losses(folder / "whole"):
        raise Failed("other losses than the undisturbed run's")
    lines = list(map(json.loads, (folder / "run/log.jsonl").read_text().splitlines()))
    assert all(line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1 for line in lines), lines
    tokens = {name: inputs / name for name in ("images", "tokenizer", "model")}
    terminal = f"import sys\nsys.stderr.isatty = lambda: True\n{_JUMPING}"
    for command in (
        pretraining(inputs, folder / "shown", steps=60),
        ["tokenize", *options(**tokens, output=folder / "tokens", workers=0)],
        ["plan", *pretraining(inputs, folder / "planned")],
        ["evaluate", *options(model=inputs / "classifier", images=inputs / "classes")],
    ):
        said = beit(*command, code=terminal)
        negative = re.search(r"\d/\d+ \[.*(?<!\w)-\d.*\]", said)
        if negative:
            raise Failed(f"a negative time or rate is shown: {negative.group()}")
        if "00:0" not in said and "/s" in said:
            raise Failed(f"the bar does not keep to a clock that nobody sets: {said[-300:]}")


# --- all of them -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the cases that were named, or all. Returns the number that failed."""
    chosen = sys.argv[1:] or list(CASES)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="surroundings") as temporary:
        inputs = Path(temporary) / "inputs"
        inputs.mkdir()
        prepare(inputs)
        for name in chosen:
            folder = Path(temporary) / name
            folder.mkdir()
            try:
                CASES[name](inputs, folder)
                print(f"{name:24} holds", flush=True)
            except (Failed, AssertionError) as error:
                failed += 1
                print(f"{name:24} FAILED: {error}", flush=True)
            finally:
                if os.path.ismount(folder / "disk"):
                    subprocess.run(["umount", folder / "disk"], check=True)
    print(f"{len(chosen) - failed} of {len(chosen)} hold")
    return failed


if __name__ == "__main__":
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", [*_NEW_MOUNTS, sys.executable, *sys.argv])
    sys.exit(main())
