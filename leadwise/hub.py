"""Share a run: find one by folder, name or hub id, and write a folder that leaves out who was trained on.

A shared folder is a run folder with a README.md. `run.load` reads it and checks every weight. It contains neither the hashes of
the training patients, from which small numbers can be counted back, nor caches, resume states, logs or local paths. The tokenizer
contains words of the training reports.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from leadwise import __version__, trained_on, weights
from leadwise import run as runs
from leadwise.files import naming_full_disk, sync, sync_tree, temporary_folder
from leadwise.run import CALIBRATION, Run, RunError

log = logging.getLogger(__name__)

FILES = ("config.toml", "data.json", "model.safetensors", "README.md")
SHARED = (*FILES, CALIBRATION, "tokenizer/*")  # of a folder on the hub: nothing else is downloaded
NONE_SHIPPED = "no weights are shipped with this version"
_PEOPLE_LISTED = (
    "`trained_on.json` lists hashes of the patients and signals that were used for training; every score states how many of the "
    "scored patients are among them."
)
_PEOPLE_NOT_LISTED = (
    "The patients that were used for training are not listed in this folder. Whether a test patient was among them cannot be "
    "checked with it."
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PRIVATE_KEYS = {"people", "signals"}  # of data.json


class HubError(RuntimeError):
    """A run that cannot be found or shared; the message names the remedy."""


def find(where: Path | str, download: bool = False, revision: str | None = None) -> Path:
    """Return the run folder that `where` names: an existing folder, a name that ships with the package, or a hub id.

    A run folder comes before shipped weights of the same name, and a warning states so. A folder without config.toml does
    not: `ptbxl` is often the folder of the data set.

    Args:
        where: "runs/mine", "ptbxl" or "org/name".
        download: fetch a hub id that is not in the local cache; without it the network is not used.
        revision: branch, tag or commit of a hub id.

    Raises:
        HubError: there is no such folder or name, or the hub id is neither in the cache nor can be fetched.
    """
    # a run folder comes first, then a name of the package, then any other path
    text = str(where)
    shipped = weights.folder(text)
    is_run = (Path(where) / "config.toml").is_file()
    if shipped is not None and is_run:
        log.warning(
            "%s is the run folder %s, not the weights of that name that ship with leadwise", text, Path(where).resolve()
        )
    if shipped is not None and not is_run:
        if revision is not None:
            raise HubError(
                f"revision={revision!r} belongs to a hub id, and {text} ships with the package; leave it out"
            )
        return shipped
    if Path(where).exists():
        if revision is not None:
            raise HubError(f"revision={revision!r} belongs to a hub id, and {text} is a folder; leave it out")
        return Path(where)
    if _HUB_ID.fullmatch(text) and not text.startswith("."):
        return _snapshot(text, download, revision)
    names = weights.names()
    known = f"the weights that ship with this version are: {', '.join(names)}" if names else NONE_SHIPPED
    raise HubError(
        f"no run {text!r}: there is no such folder, and {known}. A hub id has the form org/name. To train one: leadwise demo, "
        f"or leadwise pretrain CONFIG -o {text}"
    )


def load(
    where: Path | str,
    device: str = "auto",
    accept_changes: bool = False,
    download: bool = False,
    revision: str | None = None,
) -> Run:
    """Return the trained run that `where` names, as `find` and `run.load` do."""
    return runs.load(find(where, download, revision), device, accept_changes)


def _snapshot(repo: str, download: bool, revision: str | None) -> Path:
    """Return the folder of a hub id in the local cache; fetch it first if `download` and it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(SHARED)}
    try:
        return Path(snapshot_download(repo, local_files_only=not download, **wanted))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, HFValidationError, OSError) as error:
        if download:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise HubError(
                f"{repo} cannot be downloaded ({reason}); check its name, your access and the network"
            ) from None
    version = f" --revision {revision}" if revision else ""
    raise HubError(
        f"no run {repo!r}: there is no such folder, and it is not in the local cache of the hub. Fetch it with "
        f'leadwise.load("{repo}", download=True), or with: hf download {repo}{version}'
    )


def save_pretrained(
    run: Run,
    folder: Path | str,
    card: bool = True,
    people: bool = False,
    license: str | None = None,
    hub_id: str = "",
    dtype: str | None = None,
) -> Path:
    """Write a folder that can be shared: the run with a README.md, without who was trained on. Return the folder.

    A calibration of zero-shot scores (`leadwise calibrate`) goes with the run.

    Args:
        card: write README.md, with the metadata that a hub reads.
        people: include the hashes of the training patients; for a folder that stays with the owner of the data.
        license: the licence's identifier in the card's metadata, such as "cc-by-4.0".
        hub_id: where the folder will be uploaded, for the card's example.
        dtype: "float16" rounds the weights to 16 bits, which halves the folder; loading gives float32. None: as they are.

    Raises:
        RunError: the run has no folder, lacks a file, or cannot be stored in `dtype`.
        HubError: the folder exists and is not empty.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} exists and is not empty; choose another folder")
    if run.folder is None:
        raise RunError("this run has no folder, so it cannot be shared; create it with one")

    # written beside the target under a temporary name, so that an incomplete folder never has the final name
    with naming_full_disk(target), temporary_folder(target) as part:
        _copy_files(run, run.folder, part, people, dtype)
        if card:
            (part / "README.md").write_text(card_text(run, license, hub_id, people), encoding="utf-8")
        if target.exists():
            target.rmdir()
        sync_tree(part)
        part.rename(target)
        sync(target.parent)
    return target


def push_to_hub(run: Run, repo_id: str, private: bool = True, license: str | None = None) -> str:
    """Upload what `save_pretrained` writes to the hub and return its address. It is private by default.

    Raises:
        HubError: the id is not org/name, or the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # without a network the hub raises the error of its HTTP library, which depends on its version
    http = (base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base is not Exception)
    failures: tuple[type[Exception], ...] = (HFValidationError, OfflineModeIsEnabled, *http)
    if not _HUB_ID.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is no hub id; it has the form org/name")
    with tempfile.TemporaryDirectory() as home:
        folder = save_pretrained(run, Path(home) / "run", license=license, hub_id=repo_id)
        try:
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"leadwise {__version__}")
        except failures as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise HubError(
                f"{repo_id} cannot be uploaded ({reason}); check the network and your login (hf auth login)"
            ) from None
    return f"https://huggingface.co/{repo_id}"


def _copy_files(run: Run, source: Path, target: Path, people: bool, dtype: str | None) -> None:
    """Copy weights, tokenizer and calibration, and write config and provenance without local paths and without patients."""
    if not (source / "model.safetensors").is_file():
        raise RunError(f"{source} has no model.safetensors: the run has saved no weights yet")
    if dtype is None:
        shutil.copyfile(source / "model.safetensors", target / "model.safetensors")
    else:
        run.write_weights(target / "model.safetensors", dtype)
    if (source / "tokenizer").is_dir():
        shutil.copytree(source / "tokenizer", target / "tokenizer")
    # the table as it is on disk: its digest is in the header of the weights
    table = tomllib.loads((source / "config.toml").read_text(encoding="utf-8"))
    for key in {"cohort", "teacher", "init", "init_volume", "init_text"} & set(table.get("data", {})):
        table["data"][key] = ""
    (target / "config.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    if people and (source / trained_on.FILE).is_file():
        shutil.copyfile(source / trained_on.FILE, target / trained_on.FILE)
    provenance = {key: value for key, value in run.provenance.items() if people or key not in _PRIVATE_KEYS}
    (target / "data.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    if (source / CALIBRATION).is_file():
        _copy_calibration(run, source / CALIBRATION, target)


def _copy_calibration(run: Run, path: Path, target: Path) -> None:
    """Copy a calibration that belongs to the run's weights; the copy names the digest of the weights in `target`."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        is_of_run = table["weights"] == run.weights_digest
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path} is damaged; fit it again with leadwise calibrate, or delete it") from None
    if not is_of_run:
        log.warning("%s was fitted on other weights and is left out; fit it again with leadwise calibrate", path)
        return
    table["weights"] = runs.load(target, device="cpu").weights_digest
    (target / CALIBRATION).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def card_text(run: Run, license: str | None = None, hub_id: str = "", people: bool = False) -> str:
    """Return the README.md of a shared run: metadata of the hub, then intended use, input, training data and limits."""
    from huggingface_hub import ModelCardData

    # metadata
    method, signal, provenance = str(run.config.method["name"]), run.config.signal, run.provenance
    source = str(provenance.get("source", "unknown"))
    tags = ["ecg", "electrocardiogram", "leadwise", method]
    metadata = ModelCardData(
        library_name="leadwise", pipeline_tag="feature-extraction", tags=tags, language="en", license=license
    )

    # text
    zero_shot = 'model.zeroshot("ecg.xml", ["atrial fibrillation", "sinus rhythm"])' if run.method.embeds_text else ""
    n_parameters = sum(weight.numel() for weight in run.method.parameters())
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {hub_id or run.name}",
        "",
        f"An encoder of 12-lead ECGs, trained with the method `{method}` of leadwise {__version__}. "
        "**Research use only. Not a medical device.**",
        "",
        "## Use",
        "",
        "```python",
        "import leadwise as lw",
        "",
        f'model = lw.load("{hub_id}", download=True)' if hub_id else 'model = lw.load("path/of/this/folder")',
        'vectors = model.embed("ecg.xml")  # (1, D)',
        *([zero_shot] if zero_shot else []),
        "```",
        "",
        "## Input and output",
        "",
        f"- Leads: {', '.join(signal.leads)}. Any of them may be missing.",
        f"- {signal.duration_s:g} s at {signal.rate_hz} Hz; other rates are resampled, of longer recordings the "
        f"{'middle' if signal.window == 'center' else 'first'} part is used. Scaling: `{signal.normalize}`.",
        f"- Embeddings: {', '.join(run.method.parts)}. {n_parameters:,} parameters.",
        "",
        "## Training",
        "",
        f"- Data: source `{source}`, fingerprint `{provenance.get('fingerprint', 'unknown')}`.",
        f"- {run.config.optim.steps:,} steps of {run.config.optim.batch_size} recordings.",
        f"- {_PEOPLE_LISTED if people else _PEOPLE_NOT_LISTED}",
        "",
        "## Limits",
        "",
        "- No score supports a decision about a patient. Scores on other populations and devices can be lower.",
        "- A cosine is not a probability. Compare it with a reference cohort (`reference=`), or calibrate it on labels "
        "(`leadwise calibrate`).",
        "- Reports are statements of machines or clinicians; the encoder repeats their errors.",
        "- The tokenizer contains words of the training reports.",
        "- `leadwise card RUN COHORT` measures subgroups, robustness and calibration on your own data.",
        "",
    ]
    return "\n".join(lines)
