"""The subcommands ``recokit store ...``: what is in a store, where aliases are, what is retired and removed.

A store is a folder or a URL; what a URL's file system needs comes from the environment, such as ``AWS_PROFILE`` or
``FSSPEC_S3_ENDPOINT_URL``.
"""

__all__ = ["store"]

import re
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError, FormatError, VersionError, closest

if TYPE_CHECKING:
    from rich.table import Table

    from recokit.store import AliasMove, EmbeddingStore

store = typer.Typer(no_args_is_help=True, help="Versions of a store: list, compare, alias, retire, collect.")

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A store: its folder, or its URL.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A version, an alias or latest.")]
RankersOption = Annotated[
    list[str] | None, typer.Option("--rankers", help="A ranker's folder, or a pattern; may be given several times.")
]

_NAMES = 8  # of inputs that are shown
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@store.command("list")
def list_(
    where: StoreArgument,
    retired: Annotated[bool, typer.Option("--retired", help="Retired versions too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List versions, oldest first, with their tables, sizes and aliases."""
    rows = _open(where).summaries(retired=retired)
    despite = any(row["despite"] for row in rows)
    shown = [
        (
            row["version"],
            row["created"][:16].replace("T", " "),
            row["parent"] or "",
            _size(row["bytes"]),
            ", ".join(row["tables"]),
            ", ".join(row["aliases"]) or ("retired" if row["retired"] else ""),
            *([row["despite"] or ""] if despite else []),
        )
        for row in rows
    ]
    head = ["version", "created (UTC)", "parent", "size", "tables", "aliases"]
    head += ["published despite a failed gate"] if despite else []
    emit(rows, as_json, text_table(f"store {where}, oldest first", head, shown))


@store.command()
def show(where: StoreArgument, version: VersionArgument, as_json: JsonFlag = False) -> None:
    """Show a version: tables, relations, inputs, metrics, gates; from its manifests and reports."""
    card = _open(where).show(version)
    emit(card, as_json, *([] if as_json else _card_tables(card)))


@store.command()
def diff(
    where: StoreArgument,
    old: VersionArgument,
    new: VersionArgument,
    ids: Annotated[
        bool, typer.Option("--ids", help="Count the ids that came and went; this opens the tables.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="All metrics: also parts, baselines and differences that are within noise.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare two versions: settings, inputs, code, tables, and metrics: main figures, and what is beyond noise."""
    found = _open(where).diff(old, new, ids=ids)
    rows: list[tuple[str, ...]] = [("relation", found["relation"], "")]
    if found["code"]:
        rows.append(("code", _plain(found["code"]["old"]), _plain(found["code"]["new"])))
    rows += [(key, _plain(each["old"]), _plain(each["new"])) for key, each in found["config"].items()]
    for what in ("inputs", "tables"):
        rows += [(f"{what} {how}", "", name) for how in ("added", "removed") for name in found[what][how]]
    rows += [("input changed", "", name) for name in found["inputs"]["changed"]]
    for name, changes in found["tables"]["changed"].items():
        rows += [(f"{name}.{key}", _plain(each["old"]), _plain(each["new"])) for key, each in changes.items()]
    rows += [
        (f"edges of {name}", *("" if each[key] is None else f"{each[key]:,}" for key in ("old", "new")))
        for name, each in found["edges"].items()
    ]
    for name, count in found.get("ids", {}).items():
        rows.append(
            (f"ids of {name}", f"{count['removed']:,} removed", f"{count['added']:,} added, {count['common']:,} common")
        )
    tables = [text_table(f"{found['old']} -> {found['new']}", ("what", "old", "new"), rows)]
    if found["metrics"]:
        tables.append(_metrics(found["metrics"], everything=all_))
    emit(found, as_json, *tables)


@store.command()
def lineage(where: StoreArgument, version: VersionArgument, as_json: JsonFlag = False) -> None:
    """List a version, the one that its training started from, and so on."""
    found = _open(where).ancestry(version)
    rows = [
        (each["version"], (each["created"] or "")[:16].replace("T", " "), _outcome(each), each["state"] or "")
        for each in found
    ]
    emit(found, as_json, text_table("each started from the next", ("version", "created (UTC)", "gates", ""), rows))


@store.command()
def alias(
    where: StoreArgument,
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help="An alias; all of them without one.")] = None,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="Move it there.")] = None,
    *,
    expected: Annotated[str | None, typer.Option(help="Move it only from this version.")] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Move it to where it was before; once more, further back.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it; its history stays.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it moves; its history keeps it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List aliases, show one's history, or move it: for all readers at once."""
    opened = _open(where)
    if sum((version is not None, back, remove)) > 1:
        raise ConfigError("one of VERSION, --back and --remove, not several")
    if expected is not None and version is None and not remove:
        raise ConfigError("--expected says where an alias is before it moves: it needs VERSION or --remove")
    if reason is not None and version is None and not back and not remove:
        raise ConfigError("--reason says why an alias moves: it needs VERSION, --back or --remove")
    if name is None:
        if back or remove:
            raise ConfigError("--back and --remove need an ALIAS")
        found = opened.aliases()
        emit(found, as_json, text_table(f"aliases of {where}", ("alias", "version"), sorted(found.items())))
        return
    before = ... if expected is None else expected
    move = None
    if version is not None:
        move = opened.set_alias(name, version, expected=before, reason=reason)
    elif remove:
        move = opened.remove_alias(name, expected=before, reason=reason)
    elif back:
        move = opened.roll_back(name, reason)
    history = opened.alias_history(name)
    if not history:
        raise VersionError(f"{where} has no alias {name!r}; {closest(name, opened.aliases())}")
    if move is not None and not as_json:
        typer.echo(_moved(name, move, history))
    moves = [{**asdict(each), "moved": each.moved.isoformat()} for each in history]
    emit(moves, as_json, _history_table(name, history))


@store.command()
def retire(
    where: StoreArgument,
    version: VersionArgument,
    *,
    reason: Annotated[str | None, typer.Option(help="Why; whoever asks for it is told.")] = None,
    rankers: RankersOption = None,
    force: Annotated[bool, typer.Option("--force", help="Also the latest version.")] = False,
) -> None:
    """Hide a version that no alias and no ranker names; `gc` removes it in time."""
    _open(where).retire(version, reason=reason, rankers=rankers or (), force=force)
    typer.echo(f"{version} is retired: `recokit store restore` brings it back until `gc` removes it")


@store.command()
def restore(where: StoreArgument, version: VersionArgument) -> None:
    """Bring a retired version back."""
    _open(where).restore(version)
    typer.echo(f"{version} is restored")


@store.command()
def gc(
    where: StoreArgument,
    *,
    rankers: RankersOption = None,
    grace: Annotated[str, typer.Option(help="How long it has to have been retired: 12h, 7d, 2w.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would go.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove retired versions that nothing names, and what killed publishers left."""
    found = _open(where).collect(rankers=rankers or (), grace=_duration(grace), dry_run=dry_run)
    went = "would go" if dry_run else "removed"
    rows = [(name, went, _size(found.freed[name]), found.why[name]) for name in found.removed]
    rows += [(name, "kept", "", why) for name, why in found.kept.items()]
    rows += [(name, went, "", "left by a process that ended") for name in found.leftovers]
    title = f"store {where}: {_size(sum(found.freed.values()))} {'would be ' if dry_run else ''}freed"
    emit(asdict(found), as_json, text_table(title, ("what", "", "size", "why"), rows))


@store.command()
def protect(
    where: StoreArgument,
    ranker: Annotated[
        str | None, typer.Argument(help="A ranker's folder or URL; without one, those protected.")
    ] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Protect it no longer.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Keep the versions that a ranker names from being retired and removed."""
    opened = _open(where)
    if remove and ranker is None:
        raise ConfigError("--remove needs the RANKER that is protected no longer")
    if ranker is not None:
        (opened.unprotect if remove else opened.protect)(ranker)
    found = [asdict(protection) for protection in opened.protections()]
    rows = [(each["ranker"], ", ".join(each["versions"]), each["node"] or "") for each in found]
    emit(found, as_json, text_table(f"rankers that {where} keeps versions for", ("ranker", "versions", "on"), rows))


@store.command()
def abandon(where: StoreArgument, version: VersionArgument) -> None:
    """Clear what a publisher on another machine left when it ended."""
    number = _open(where).abandon(version)
    typer.echo(f"{number} files of {version} were removed")


@store.command()
def publish(
    where: StoreArgument,
    folder: Annotated[Path, typer.Argument(help="A complete version, written elsewhere.")],
    *,
    name: Annotated[str | None, typer.Option(help="Refuse it if it is called otherwise.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Move this alias to it; may be given several times.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish a version's folder, whole or not at all; done already, it stays as it is."""
    from recokit.table.folder import check_name

    opened = _open(where, new=True)
    for each in alias or []:
        check_name(each, "--alias")  # before the version is there without it
    with progress("publishing") as advance:
        version = opened.publish_folder(folder, name=name, progress=advance)
    for each in alias or []:
        opened.set_alias(each, version.name)
    card = opened.show(version.name)
    rows = [(card["version"], _size(card["bytes"]), ", ".join(card["aliases"]))]
    emit(card, as_json, text_table(f"published to {where}", ("version", "size", "aliases"), rows))


def _open(where: str, *, new: bool = False) -> "EmbeddingStore":
    """Open a store; a folder that is not there is a new store only to who publishes, and a slip to all others."""
    from recokit.store import EmbeddingStore

    opened = EmbeddingStore(where)
    if not new and isinstance(opened.root, Path) and not opened.root.is_dir():
        raise FormatError(f"{where} is no store: there is no such folder")
    return opened


def _card_tables(card: dict[str, Any]) -> "list[Table]":
    """Return what people see of a version: facts, tables, relations, metrics, gates; those that have a row."""
    facts = {key: card[key] for key in ("version", "created", "parent", "bytes", "files")}
    facts |= {"aliases": ", ".join(card["aliases"]), "reports": ", ".join(card["reports"])}
    if card["retired"]:
        reason = card["retired"]["reason"]
        facts["retired"] = f"{card['retired']['retired'][:16]} by {card['retired']['by']}"
        facts["retired"] += f": {reason}" if reason else ""
    if card["code"]:
        facts["code"] = _plain(card["code"])
    if card["inputs"]:
        facts["inputs"] = _inputs(card["inputs"])
    if card["despite"]:
        facts["published despite"] = card["despite"]
    shown = [(key, f"{value:,}" if isinstance(value, int) else str(value or "")) for key, value in facts.items()]
    parts = (
        (
            "tables",
            ("table", "entity", "kind", "count", "dim", "size"),
            [
                (t["name"], t["entity"], t["kind"], f"{t.get('count', 0):,}", str(t.get("dim", "")), _size(t["bytes"]))
                for t in card["tables"]
            ],
        ),
        (
            "relations",
            ("relation", "source", "target", "operator", "edges"),
            [
                (*(_plain(r[key]) for key in ("name", "source", "target", "operator")), _count(r["edges"]))
                for r in card["relations"]
            ],
        ),
        (
            "metrics",
            ("task", "metric", "group", "value", "interval"),
            [
                (*(_plain(m[key]) for key in ("name", "metric", "group")), _figure(m["value"]), _interval(m))
                for m in card["headline"]
            ],
        ),
        (
            f"gates: {_outcome({**card, 'gates': Counter(gate['status'] for gate in card['gates'])})}",
            ("gate", "outcome", "why"),
            [(gate["name"], gate["status"], gate["message"]) for gate in card["gates"]],
        ),
    )
    return [
        text_table(f"version {card['version']}", ("what", "value"), shown),
        *(text_table(title, head, rows) for title, head, rows in parts if rows),
    ]


def _inputs(inputs: Any) -> str:
    """Return how many files there were, how large, and what the first are called."""
    if not isinstance(inputs, dict):
        return str(inputs)
    total = sum(
        size for each in inputs.values() if isinstance(each, dict) and isinstance(size := each.get("bytes"), int)
    )
    names, more = list(inputs)[:_NAMES], len(inputs) - _NAMES
    said = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    return f"{len(inputs)} file{'s' if len(inputs) > 1 else ''}, {_size(total)}: {said}"


def _outcome(card: dict[str, Any]) -> str:
    """Return how many gates passed, failed and were skipped, and why the version was published all the same."""
    said = ", ".join(f"{count} {status}" for status, count in card["gates"].items())
    despite = f"published despite: {card['despite']}" if card["despite"] else ""
    return "; ".join(filter(None, (said, despite)))


def _moved(name: str, move: "AliasMove", history: "list[AliasMove]") -> str:
    before = [each.version for each in history if each.number < move.number]
    return f"{name}: {(before[-1] if before else None) or 'nowhere'} -> {move.version or 'removed'}"


def _history_table(name: str, history: "list[AliasMove]") -> "Table":
    head = ("move", "moved (UTC)", "version", "by", "back to move", "reason")
    rows = [
        (
            str(move.number),
            f"{move.moved:%Y-%m-%d %H:%M:%S}",
            move.version or "removed",
            move.by,
            _plain(move.back),
            move.reason or "",
        )
        for move in history
    ]
    used = [index for index, _ in enumerate(head) if index < 4 or any(row[index] for row in rows)]
    shown = [tuple(row[index] for index in used) for row in rows]
    return text_table(f"alias {name}, newest last", [head[index] for index in used], shown)


def _metrics(rows: list[dict[str, Any]], *, everything: bool) -> "Table":
    shown = [row for row in rows if everything or row["headline"] or row["beyond"]]
    hidden = len(rows) - len(shown)
    title = f"metrics; {hidden} more that are parts or within noise: --all" if hidden else "metrics"
    head = ("subject", "metric", "group", "old", "new", "difference", "beyond both intervals")
    lines = [
        (
            f"this version {row['name']}" if row["name"].startswith("- ") else row["name"],
            _plain(row["metric"]),
            _plain(row["group"]),
            *(_figure(row[key]) for key in ("old", "new", "difference")),
            {True: "yes", False: "no", None: ""}[row["beyond"]],
        )
        for row in shown
    ]
    return text_table(title, head, lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)
    return "" if value is None else str(value)


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _interval(row: dict[str, Any]) -> str:
    low, high = _figure(row["low"]), _figure(row["high"])
    return f"{low} to {high}" if low and high else ""


def _size(number: int) -> str:
    amount, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise ConfigError(f"--grace is {text!r}, expected a number and one of {', '.join(_UNITS)}, such as 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        raise ConfigError(f"--grace is {text!r}, which is longer than time is counted") from None
