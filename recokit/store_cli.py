"""The subcommands ``recokit store ...``: what is in a store, where aliases are, what is retired and removed.

A store is a folder or a URL; what a URL's file system needs comes from the environment, such as ``AWS_PROFILE`` or
``FSSPEC_S3_ENDPOINT_URL``.
"""

__all__ = ["store"]

import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from recokit.store import EmbeddingStore

store = typer.Typer(no_args_is_help=True, help="Versions of a store: list, compare, alias, retire, collect.")

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A store: its folder, or its URL.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A version, an alias or latest.")]
RankersOption = Annotated[
    list[str] | None, typer.Option("--rankers", help="A ranker's folder, or a pattern; may be given several times.")
]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@store.command("list")
def list_(
    where: StoreArgument,
    retired: Annotated[bool, typer.Option("--retired", help="Retired versions too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List versions, oldest first, with their tables, sizes and aliases."""
    rows = _open(where).summaries(retired=retired)
    shown = [
        (
            row["version"],
            row["created"][:16].replace("T", " "),
            row["parent"] or "",
            _size(row["bytes"]),
            ", ".join(row["tables"]),
            ", ".join(row["aliases"]) or ("retired" if row["retired"] else ""),
        )
        for row in rows
    ]
    head = ("version", "created (UTC)", "parent", "size", "tables", "aliases")
    emit(rows, as_json, text_table(f"store {where}, oldest first", head, shown))


@store.command()
def show(where: StoreArgument, version: VersionArgument, as_json: JsonFlag = False) -> None:
    """Show what there is to know of a version, from its manifests and reports."""
    card = _open(where).show(version)
    facts = {key: card[key] for key in ("version", "created", "parent", "bytes", "files")}
    facts |= {"aliases": ", ".join(card["aliases"]), "reports": ", ".join(card["reports"])}
    if card["retired"]:
        facts["retired"] = f"{card['retired']['retired'][:16]} by {card['retired']['by']}"
    if card["code"]:
        facts["code"] = _plain(card["code"])
    shown = [(key, f"{value:,}" if isinstance(value, int) else str(value or "")) for key, value in facts.items()]
    head = ("table", "entity", "kind", "count", "dim", "size")
    tables = [
        (t["name"], t["entity"], t["kind"], f"{t.get('count', 0):,}", str(t.get("dim", "")), _size(t["bytes"]))
        for t in card["tables"]
    ]
    emit(
        card,
        as_json,
        text_table(f"version {card['version']}", ("what", "value"), shown),
        text_table("tables", head, tables),
    )


@store.command()
def diff(
    where: StoreArgument,
    old: VersionArgument,
    new: VersionArgument,
    ids: Annotated[
        bool, typer.Option("--ids", help="Count the ids that came and went; this opens the tables.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare two versions: settings, inputs, code, tables, metrics."""
    found = _open(where).diff(old, new, ids=ids)
    rows = [("relation", found["relation"], "")]
    if found["code"]:
        rows.append(("code", _plain(found["code"]["old"]), _plain(found["code"]["new"])))
    rows += [(key, _plain(each["old"]), _plain(each["new"])) for key, each in found["config"].items()]
    for what in ("inputs", "tables"):
        rows += [(f"{what} {how}", "", name) for how in ("added", "removed") for name in found[what][how]]
    rows += [("input changed", "", name) for name in found["inputs"]["changed"]]
    for name, changes in found["tables"]["changed"].items():
        rows += [(f"{name}.{key}", _plain(each["old"]), _plain(each["new"])) for key, each in changes.items()]
    for name, count in found.get("ids", {}).items():
        rows.append(
            (f"ids of {name}", f"{count['removed']:,} removed", f"{count['added']:,} added, {count['common']:,} common")
        )
    tables = [text_table(f"{found['old']} -> {found['new']}", ("what", "old", "new"), rows)]
    if found["metrics"]:
        tables.append(_metrics(found["metrics"]))
    emit(found, as_json, *tables)


@store.command()
def lineage(where: StoreArgument, version: VersionArgument, as_json: JsonFlag = False) -> None:
    """List a version, the one that its training started from, and so on."""
    names = _open(where).lineage(version)
    emit(names, as_json, text_table("each from the next", ("version",), [(name,) for name in names]))


@store.command()
def alias(
    where: StoreArgument,
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help="An alias; all of them without one.")] = None,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="Move it there.")] = None,
    *,
    expected: Annotated[str | None, typer.Option(help="Move it only from this version.")] = None,
    back: Annotated[bool, typer.Option("--back", help="Move it to where it was before.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it; its history stays.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List aliases, show one's history, or move it: for all readers at once."""
    opened = _open(where)
    if sum((version is not None, back, remove)) > 1:
        raise ConfigError("one of VERSION, --back and --remove, not several")
    if name is None:
        found = opened.aliases()
        emit(found, as_json, text_table(f"aliases of {where}", ("alias", "version"), sorted(found.items())))
        return
    before = ... if expected is None else expected
    if version is not None:
        opened.set_alias(name, version, expected=before)
    elif remove:
        opened.remove_alias(name, expected=before)
    elif back:
        _move_back(opened, name)
    moves = [{**asdict(move), "moved": move.moved.isoformat()} for move in opened.alias_history(name)]
    rows = [(m["moved"][:19].replace("T", " "), m["version"] or "removed", m["by"]) for m in moves]
    emit(moves, as_json, text_table(f"alias {name}, newest last", ("moved (UTC)", "version", "by"), rows))


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


@store.command()
def restore(where: StoreArgument, version: VersionArgument) -> None:
    """Bring a retired version back."""
    _open(where).restore(version)


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
    rows = [(name, went, "") for name in found.removed] + [(name, "kept", why) for name, why in found.kept.items()]
    rows += [(name, went, "left by a process that ended") for name in found.leftovers]
    emit(asdict(found), as_json, text_table(f"store {where}", ("what", "", "why"), rows))


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
    opened = _open(where)
    with progress("publishing") as advance:
        version = opened.publish_folder(folder, name=name, progress=advance)
    for each in alias or []:
        opened.set_alias(each, version.name)
    card = opened.show(version.name)
    rows = [(card["version"], _size(card["bytes"]), ", ".join(card["aliases"]))]
    emit(card, as_json, text_table(f"published to {where}", ("version", "size", "aliases"), rows))


def _open(where: str) -> "EmbeddingStore":
    from recokit.store import EmbeddingStore

    return EmbeddingStore(where)


def _move_back(opened: "EmbeddingStore", name: str) -> None:
    """Move an alias to the last version that it was at before the one where it is now."""
    places = [move.version for move in opened.alias_history(name)]
    earlier = [version for version in places[:-1] if version not in (None, places[-1])]
    if not earlier or places[-1] is None:
        raise ConfigError(f"alias {name!r} is at {places[-1] if places else None}, and was at no other version before")
    opened.set_alias(name, str(earlier[-1]), expected=places[-1])


def _metrics(rows: list[dict[str, Any]]) -> "Table":
    head = ("subject", "metric", "group", "old", "new", "difference", "beyond both intervals")
    lines = [
        (
            _plain(row["name"]),
            _plain(row["metric"]),
            _plain(row["group"]),
            *(("" if row[key] is None else f"{row[key]:.4f}") for key in ("old", "new", "difference")),
            {True: "yes", False: "no", None: ""}[row["beyond"]],
        )
        for row in rows
    ]
    return text_table("metrics", head, lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)
    return "" if value is None else str(value)


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
    return timedelta(**{_UNITS[match[2]]: float(match[1])})
