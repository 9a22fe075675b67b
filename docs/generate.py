"""Pages of the site that are written at build time: methods, API reference, results, notes and changes.

They come from the package's docstrings and from files of the repository, so that no text exists twice. Nothing here needs
a network, a GPU or data.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tokenize
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from docstrings import to_markdown

from leadwise.methods import catalogue

ROOT = Path(__file__).resolve().parents[1]

API = {  # page of the reference -> title, introduction, modules; NAME.* is every module of a package
    "model": (
        "The Python API",
        "Read ECGs, load a trained model, embed, classify and search with it.",
        ("leadwise.model", "leadwise.ecg", "leadwise.ecg_inputs", "leadwise.sklearn"),
    ),
    "runs": (
        "Runs, configs and batches",
        "Load a trained run, read and change its settings, and the batch that every method receives.",
        (
            "leadwise",
            "leadwise.batch",
            "leadwise.config",
            "leadwise.run",
            "leadwise.onnx_export",
            "leadwise.hub",
            "leadwise.weights",
            "leadwise.training.loop",
            "leadwise.demo",
        ),
    ),
    "data": (
        "Recordings, cohorts and loaders",
        "From a file to a batch: read a recording, prepare a cohort, and read batches from it.",
        (
            "leadwise.data.formats.*",
            "leadwise.data.recordings.*",
            "leadwise.data.cohort.*",
            "leadwise.data.measurements",
            "leadwise.data.delineation.*",
            "leadwise.data.loader",
            "leadwise.data.crops",
            "leadwise.data.tasks",
            "leadwise.data.published_splits",
            "leadwise.data.label_subset",
            "leadwise.data.reports",
        ),
    ),
    "sources": (
        "Data sets",
        "One module for each data set, and the simulator.",
        ("leadwise.data.sources.*", "leadwise.data.simulator.*"),
    ),
    "audit": (
        "Checks of a cohort",
        "What `leadwise check` looks for before training.",
        ("leadwise.data.audit", "leadwise.data.audit.*"),
    ),
    "evaluate": (
        "Evaluation",
        "Embeddings, probes, zero-shot classification, retrieval, comparisons and metrics.",
        (
            "leadwise.evaluate.*",
            "leadwise.evaluate.metrics.*",
            "leadwise.evaluate.prompts",
            "leadwise.evaluate.prompts.*",
            "leadwise.evaluate.merl_legacy.*",
            "leadwise.evaluate.card.*",
        ),
    ),
    "methods": (
        "Contract and catalogue of methods",
        "What a method implements, and how methods are found. The methods themselves have [their own page](../methods.md).",
        ("leadwise.methods", "leadwise.methods.contract", "leadwise.methods.catalogue"),
    ),
    "encoders": (
        "Encoders with public weights",
        "What an adapter states and reads, and how weights are loaded. [Their page](../public-weights.md) has the list.",
        (
            "leadwise.encoders",
            "leadwise.encoders.contract",
            "leadwise.encoders.catalogue",
            "leadwise.encoders.weight_file",
        ),
    ),
    "nn": ("Parts that methods share", "Encoders, masks, views and losses.", ("leadwise.nn.*", "leadwise.nn.losses.*")),
    "generate": (
        "Reports from ECGs",
        "Writers of reports, their training, and their scores beside controls.",
        ("leadwise.generate.*", "leadwise.generate.writers.*", "leadwise.questions.*"),
    ),
    "synthesis": (
        "Synthetic ECGs",
        "Missing leads that a model fills in, ECGs from text, their scores, and files that state what is synthetic.",
        ("leadwise.synthesis.*",),
    ),
    "pictures": (
        "Pictures and pages",
        "Arrays in, figures out; results in, one HTML file out.",
        ("leadwise.pictures.*", "leadwise.pages.*"),
    ),
    "reproduce": (
        "The papers' tables and figures",
        "What `leadwise reproduce` trains and scores.",
        ("leadwise.reproduce", "leadwise.reproduce.*"),
    ),
}

RESULTS = (  # a page of benchmarks/results, and what it answers
    ("ptbxl_cpu", "CG-DMER on a part of PTB-XL, half an hour on two CPU cores: all tasks, with intervals"),
    ("merl_ptbxl_cpu", "MERL with a small ResNet on the same part, twelve minutes of one core"),
    ("learning_ptbxl", "Every method for two minutes of one core, PTB-XL part"),
    ("learning_ptbxl_curves", "Methods for twenty minutes of one core, the whole of PTB-XL: curves, and fewer leads"),
    (
        "peers_ptbxl",
        "The methods of 2026 for five minutes of one core, the whole of PTB-XL, three seeds: one judge for all",
    ),
    ("judging_ptbxl", "CG-DMER, MERL and MERIT on PTB-XL: probed and fine-tuned, AUROC and F1 in three variants"),
    ("merit", "MERIT: its thesis on simulated ECGs, and its numbers beside ours"),
    ("dual_phase", "ECG encoders trained with heart images in two phases, simulated pairs, with bounds"),
    (
        "cmr_relatives",
        "Relatives of dual-phase CMR: PTACL, EchoingECG, MyoECG, a scar anchor, a phase target, simulated pairs",
    ),
    ("shared_space", "Images of the heart, reports and ECGs in one space: words find images, simulated pairs"),
    ("ecg_flow", "Phenotypes and heart images drawn from ECGs by a rectified flow, simulated pairs"),
    ("reports", "Reports written from ECGs: a small writer beside its controls, PTB-XL with 12SL text"),
    ("completion", "Missing leads by WearECG and masked methods beside linear maps, PTB-XL part and simulated ECGs"),
    ("beat_tokens", "ECG tokens: what they rebuild, continue and contain, PTB-XL part and simulated ECGs"),
    ("generation", "ECGs generated from text: labels, heart rate, distances and a rare class, simulated ECGs"),
    ("questions", "Questions about ECGs: probes beside shuffled and zero ECGs, majority and chance"),
    ("leaderboard", "A leaderboard of submitted results, each with its controls"),
    ("methods_simulated", "Every method for two minutes of one core, simulated ECGs"),
    ("methods_simulated_longer", "BYOL and TS-TCC for five minutes, simulated ECGs"),
    ("table3_ptbxl", "CG-DMER without each of its terms (Table 3), PTB-XL part"),
    ("table3_simulated", "CG-DMER without each of its terms, simulated ECGs"),
    ("fig2_ptbxl", "Number of patches and mask ratio (Figure 2), PTB-XL part"),
    ("protocol_cost_cg_dmer", "What each fault of the published probe changes, CG-DMER"),
    ("protocol_cost_merl", "What each fault of the published probe changes, MERL"),
    ("fewer_tokens", "Embedding from a part of the patches"),
    ("demo", "The demo: scores and times"),
    ("shipped_ptbxl", "The weights that ship: fold 10, other data sets, groups"),
    ("shipped_ptbxl-fast", "The small encoder that ships: fold 10, other data sets, groups"),
    ("gpu", "One GPU: right, fast and learned within minutes"),
    ("delineation", "Measured intervals against the marks of cardiologists (LUDB)"),
    ("serve", "Latency of the local page"),
    (
        "trust",
        "What was tried to break it: mutated files, kills, full disks, plain numbers, planted leaks, many records",
    ),
    ("scale", "Preparing and opening many records"),
    ("speed", "Speed as ratios against other ways"),
    ("speed_more", "Speed: decoders, tokens, reports, options"),
    ("speed_embedding", "Speed: embedding against MERL's ResNet-18"),
    ("speed_pairs", "Speed and memory of 5,000 ECGs with heart images"),
    ("profile_step", "Where the time of a training step goes"),
)


def write_pages(folder: Path) -> None:
    """Write every generated page under the documentation folder; an unchanged page keeps its time stamp."""
    pages = {"_generated/methods.md": methods_page()}
    pages |= {f"api/{name}.md": api_page(*page) for name, page in API.items()}
    pages |= {f"results/{path.stem}.md": path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    pages["_generated/results.md"] = results_list()
    for name in ("notes", "changelog"):
        pages[f"{name}.md"] = (ROOT / f"{name.upper()}.md").read_text()
    for name in ("api", "results", "_generated"):
        for old in (folder / name).glob("*.md"):
            if f"{name}/{old.name}" not in pages:
                old.unlink()
    for name, text in pages.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        if not target.is_file() or target.read_text() != text:
            target.write_text(text)
    # the pictures of the pages of results
    pictures = {path.name: path for path in (ROOT / "benchmarks" / "results").glob("*.png")}
    for old in (folder / "results").glob("*.png"):
        if old.name not in pictures:
            old.unlink()
    for picture, path in pictures.items():
        target = folder / "results" / picture
        if not target.is_file() or target.read_bytes() != path.read_bytes():
            target.write_bytes(path.read_bytes())


def point_links_into_the_site(app: object, name: str, source: list[str]) -> None:
    """Rewrite links between files of the repository to pages of the site; on a code host the originals work."""
    up = "../" if "/" in name else ""
    for here, there in (
        (r"(?:\.\./)*benchmarks/results/", f"{up}results/"),
        (r"(?:\.\./)*NOTES\.md", f"{up}notes.md"),
        (r"(?:\.\./)*CHANGELOG\.md", f"{up}changelog.md"),
        (r"(?:\.\./)*docs/", up),
    ):
        source[0] = re.sub(r"\]\(" + here, f"]({there}", source[0])


def methods_page() -> str:
    """A table of every method, then a section for each: source, objective, departures, settings."""
    entries = catalogue.entries()
    lines = ["| method | paper | reads | zero-shot | parameters, M | small, M |", "|---|---|---|---|---|---|"]
    for one in entries:
        small = "" if one.n_small is None else f"{one.n_small / 1e6:.2f}"
        cells = (
            f"[`{one.name}`](#method-{one.name.replace('_', '-')})",
            _cell(f"{one.title}. {one.source}"),
            one.reads,
            "yes" if one.zero_shot else "",
            f"{one.n_parameters / 1e6:.1f}",
            small,
        )
        lines.append("| " + " | ".join(cells) + " |")
    for one in entries:
        lines += [
            "",
            f"(method-{one.name.replace('_', '-')})=",
            f"## {one.name}",
            "",
            f"{to_markdown(one.title + '.')}",
        ]
        lines += [to_markdown(one.source + ".")] if one.source else []
        reads = f"Reads: {one.reads}. Zero-shot: {'yes' if one.zero_shot else 'no'}."
        lines += [reads + (f" Needs: {to_markdown(one.needs).strip()}." if one.needs else ""), ""]
        lines += [to_markdown(one.objective), "", *_settings_table(one.name)]
    return "\n".join(lines) + "\n"


def _settings_table(name: str) -> list[str]:
    meaning = _comments_of_fields(catalogue.find_method(name).config_class)
    rows = catalogue.settings(name)
    lines = [f'Settings (`[method]` of a config, `name = "{name}"`):', ""]
    lines += ["| setting | default | small | meaning |", "|---|---|---|---|"]
    for row in rows:
        small = f"`{row['small']}`" if row["small"] else ""
        lines.append(
            f"| `{row['setting']}` | `{row['default']}` | {small} | {_cell(meaning.get(row['setting'], ''))} |"
        )
    return lines


def _comments_of_fields(config: type) -> dict[str, str]:
    """Field -> the comment at the end of the lines that declare it, of a dataclass and its bases."""
    comments: dict[str, str] = {}
    for one in reversed(config.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        field = None
        for token in tokenize.generate_tokens(StringIO(inspect.getsource(one)).readline):
            declares = re.match(r"    (\w+): ", token.line)
            if token.type == tokenize.NAME and declares and token.string == declares[1] and token.start[1] == 4:
                field = declares[1]
            elif token.type == tokenize.COMMENT and field and token.line.strip() != token.string:
                comments[field] = " ".join(filter(None, [comments.get(field), token.string.lstrip("# ")]))
            elif token.type == tokenize.NEWLINE:
                field = None
    return comments


def _cell(text: str) -> str:
    return to_markdown(" ".join(text.split())).strip().replace("|", "\\|")


def results_list() -> str:
    """A list of the pages of results, and the hidden table of contents that holds them."""
    existing = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    described = [(name, text) for name, text in RESULTS if name in existing]
    described += [(name, name.replace("_", " ")) for name in sorted(existing - {name for name, _ in described})]
    lines = [f"- [{text}](results/{name}.md)" for name, text in described]
    contents = "\n".join(f"results/{name}" for name, _ in described)
    return "\n".join(lines) + f"\n\n```{{toctree}}\n:hidden:\n\n{contents}\n```\n"


def api_page(title: str, introduction: str, names: Sequence[str]) -> str:
    """A page of the reference: a section for each module."""
    lines = [f"# {title}", "", introduction, ""]
    for name in list_modules(names):
        lines += [f"## {name}", "", "```{eval-rst}", f".. automodule:: {name}", "   :members:", "```", ""]
    return "\n".join(lines)


def list_modules(names: Sequence[str]) -> list[str]:
    """The modules that a page of the reference names, in order."""
    modules: list[str] = []
    for name in names:
        folder = ROOT.joinpath(*name.removesuffix(".*").split("."))
        if name.endswith(".*"):
            modules += [f"{name[:-2]}.{path.stem}" for path in sorted(folder.glob("[a-z]*.py"))]
        elif (folder / "__init__.py").is_file() or folder.with_suffix(".py").is_file():
            modules.append(name)
    return modules
