"""A folder is followed as it is, with its permissions, and never left."""

from __future__ import annotations

import grp
import os
import pwd
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from app.retrieval.access import AccessList
from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.batches import AT_A_STEP
from app.retrieval.connectors.folder import FolderSource
from app.retrieval.connectors.posix import EVERYONE, Names, Readers
from app.retrieval.connectors.settings import FolderSettings
from tests.conftest import ROOT, missing
from tests.retrieval.connectors.common import content, listed


def source_of(path: Path, permissions: Literal["none", "posix"] = "none") -> FolderSource:
    return FolderSource(
        FolderSettings(kind="folder", tenants=["acme"], path=path, permissions=permissions)
    )


def write(path: Path, text: str = "text", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


async def test_files_are_listed_by_their_path_and_read(tmp_path: Path) -> None:
    write(tmp_path / "a.md", "first")
    write(tmp_path / "b" / "c" / "ü d.txt", "second")
    source = source_of(tmp_path)
    found = await listed(source)
    assert {key: item.filename for key, item in found.items()} == {
        "a.md": "a.md",
        "b/c/ü d.txt": "ü d.txt",
    }
    assert {item.access for item in found.values()} == {None}
    assert await content(source, found["b/c/ü d.txt"]) == b"second"
    await source.aclose()


async def test_more_files_than_one_step_reads_are_all_listed(tmp_path: Path) -> None:
    names = {f"{number}.md" for number in range(2 * AT_A_STEP)}
    for name in names:
        write(tmp_path / name)
    assert set(await listed(source_of(tmp_path))) == names


@pytest.mark.parametrize(
    "name",
    [".hidden.md", ".git/config", "~$plan.docx", "#plan.md#", "plan.md~", "a.tmp", "b.CRDOWNLOAD"],
)
async def test_hidden_and_temporary_files_are_left_out(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    write(tmp_path / "# 1.md")
    assert set(await listed(source_of(tmp_path))) == {"# 1.md"}


async def test_a_name_that_is_no_text_is_listed_and_shown_as_text(tmp_path: Path) -> None:
    """Whoever follows the source tells that it cannot be kept under this name."""
    name = os.fsdecode(b"caf\xe9.md")
    (tmp_path / name).write_bytes(b"text")
    source = source_of(tmp_path)
    item = (await listed(source))[name]
    assert await content(source, item) == b"text"
    with pytest.raises(ItemUnavailable, match=r"^'caf\?\.md' has more") as refused:
        await content(source, item, max_bytes=1)
    refused.value.message.encode()


async def test_a_part_is_listed_without_the_rest(tmp_path: Path) -> None:
    for name in ("hr/a.md", "hr/old/b.md", "hr/c.pdf", "hr2/d.md", "it/e.md"):
        write(tmp_path / name)
    part = Part(path="hr/", include=["*.md"], exclude=["hr/old/*"])
    assert set(await listed(source_of(tmp_path), part)) == {"hr/a.md"}
    assert set(await listed(source_of(tmp_path), Part(path="hr"))) == {
        *("hr/a.md", "hr/old/b.md", "hr/c.pdf", "hr2/d.md"),
    }


def replaced(path: Path) -> None:
    """Another file of the same size and time in its place."""
    times = path.stat()
    other = write(path.with_name("other"), "othe")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def overwritten(path: Path) -> None:
    """Other bytes of the same number in the same file, with its time set back."""
    times = path.stat()
    path.write_text("othe", encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def grown(path: Path) -> None:
    path.write_text("text and more", encoding="utf-8")


@pytest.mark.parametrize("change", [replaced, overwritten, grown])
async def test_a_change_is_seen_also_with_size_and_time_kept(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "a.md")
    source = source_of(tmp_path)
    before = (await listed(source))["a.md"].fingerprint
    assert (await listed(source))["a.md"].fingerprint == before
    change(path)
    assert (await listed(source))["a.md"].fingerprint != before


async def test_links_are_neither_listed_nor_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside" / "secret.md", "secret")
    root = tmp_path / "root"
    write(root / "a.md")
    write(root / "inner" / "secret.md", "own")
    (root / "file.md").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    source = source_of(root)
    found = await listed(source)
    assert set(found) == {"a.md", "inner/secret.md"}
    # links take their places after they were listed
    (root / "a.md").unlink()
    (root / "a.md").symlink_to(secret)
    (root / "inner").rename(tmp_path / "moved")
    (root / "inner").symlink_to(secret.parent)
    for item in found.values():
        with pytest.raises(ItemUnavailable, match="is gone"):
            await content(source, item)


@pytest.mark.parametrize("key", ["../outside.md", "/etc/hostname", "a//b", "./a.md", "", "a\0"])
async def test_a_key_leads_nowhere_but_below_the_folder(tmp_path: Path, key: str) -> None:
    write(tmp_path / "outside.md")
    write(tmp_path / "root" / "a.md")
    with pytest.raises(ItemUnavailable, match="no path"):
        await content(source_of(tmp_path / "root"), Item(key, "", "a.md"))


async def test_a_pipe_is_no_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md")
    write(tmp_path / "b.md")
    source = source_of(tmp_path)
    item = (await listed(source))["a.md"]
    path.unlink()
    os.mkfifo(path)
    assert set(await listed(source)) == {"b.md"}
    with pytest.raises(ItemUnavailable, match="no file"):
        await content(source, item)


async def test_a_file_that_is_gone_or_too_large_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md", "12345")
    source = source_of(tmp_path)
    item = (await listed(source))["a.md"]
    assert await content(source, item, max_bytes=5) == b"12345"
    with pytest.raises(ItemUnavailable, match="more than 4 bytes"):
        await content(source, item, max_bytes=4)
    path.unlink()
    with pytest.raises(ItemUnavailable, match="is gone"):
        await content(source, item)


async def test_a_missing_folder_is_no_empty_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(SourceError, match="missing") as refused:
        await listed(source_of(root))
    assert str(tmp_path) not in refused.value.message
    root.mkdir()  # as an unmounted disk leaves it
    with pytest.raises(SourceError, match="not mounted"):
        await listed(source_of(root))
    write(root / ".keep")
    assert await listed(source_of(root)) == {}


async def test_a_folder_gone_before_a_file_is_read_fails_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "root" / "a.md")
    source = source_of(tmp_path / "root")
    item = (await listed(source))["a.md"]
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="missing"):
        await content(source, item)


def test_an_unreadable_folder_below_fails_the_listing(tmp_path: Path) -> None:
    """Asked in a process of another user: nothing is unreadable for root."""
    write(tmp_path / "a.md")
    write(tmp_path / "locked" / "b.md").parent.chmod(0)
    program = (
        "import asyncio, os, sys\n"
        "import concurrent.futures.thread\n"  # later nothing may be imported
        "from app.retrieval.connectors.base import Part, SourceError\n"
        "from tests.retrieval.connectors.common import listed\n"
        "from tests.retrieval.connectors.test_folder import source_of\n"
        "from pathlib import Path\n"
        "source = source_of(Path('.'))\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0:\n"
        "    os.setuid(65534)\n"
        "try:\n"
        "    asyncio.run(listed(source))\n"
        "except SourceError as error:\n"
        "    print(error.message)\n"
        "print(sorted(asyncio.run(listed(source, Part(exclude=['locked/*'])))))\n"
    )
    tmp_path.chmod(0o755)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
    finally:
        (tmp_path / "locked").chmod(0o755)
    message, rest = asked.stdout.splitlines()
    assert message.startswith("The folder 'locked/' cannot be read.")
    assert "'locked/*'" in message
    assert rest == "['a.md']"


ME = pwd.getpwuid(os.geteuid()).pw_name
OURS = grp.getgrgid(os.getegid()).gr_name


@pytest.mark.parametrize(
    ("mode", "access"),
    [
        (0o644, None),
        (0o640, AccessList(frozenset({ME}), frozenset({OURS}))),
        (0o600, AccessList(frozenset({ME}))),
        (0o604, AccessList(frozenset({ME}))),  # the group may less than others
        (0o040, AccessList(groups=frozenset({OURS}))),
        (0o000, AccessList()),
    ],
)
async def test_modes_become_access_lists(
    tmp_path: Path, mode: int, access: AccessList | None
) -> None:
    os.chown(write(tmp_path / "a.md", mode=mode), -1, os.getegid())
    found = await listed(source_of(tmp_path, "posix"))
    assert found["a.md"].access == access


async def test_a_file_is_no_more_open_than_its_folders(tmp_path: Path) -> None:
    closed = write(tmp_path / "closed" / "in" / "a.md").parent.parent
    os.chown(closed, -1, os.getegid())
    for mode, access in (
        (0o755, None),
        (0o750, AccessList(frozenset({ME}), frozenset({OURS}))),
        (0o700, AccessList(frozenset({ME}))),
    ):
        closed.chmod(mode)
        source = source_of(tmp_path, "posix")
        item = (await listed(source))["closed/in/a.md"]
        assert item.access == access
        assert await content(source, item) == b"text"


async def test_a_file_with_an_acl_is_for_its_owner(tmp_path: Path) -> None:
    """Its group's bits are a mask then, and others' bits do not bind whom it names."""
    entries = [(1, 6, -1), (2, 0, 12_345), (4, 4, -1), (16, 4, -1), (32, 4, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    path = write(tmp_path / "a.md")
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError:
        missing("A file system with ACLs", "mount the temporary folder with the option acl")
    assert path.stat().st_mode & 0o777 == 0o644
    found = await listed(source_of(tmp_path, "posix"))
    assert found["a.md"].access == AccessList(frozenset({ME}))


async def test_a_file_closed_after_it_was_listed_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md")
    source = source_of(tmp_path, "posix")
    item = (await listed(source))["a.md"]
    path.chmod(0o600)
    with pytest.raises(ItemUnavailable, match="permissions"):
        await content(source, item)


def test_who_has_no_name_is_known_by_his_number() -> None:
    nobody = 4_000_000_001
    access = Names().access(Readers(False, frozenset({nobody}), frozenset({nobody})))
    assert access == AccessList(frozenset({str(nobody)}), frozenset({str(nobody)}))
    assert Names().access(EVERYONE) is None
