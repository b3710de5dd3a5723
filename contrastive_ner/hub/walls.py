"""Loading a model behind walls. `clean_process.py` runs this file as a script, in a new process.

It imports only the standard library before the walls stand, and nothing of this project ever: the
model is loaded as a stranger would load it. Where the system has user namespaces (Linux, unless an
administrator has turned them off), the process gets a network without connections, a read-only
file system, an empty folder for its own files, none of the user's own files but those that Python
and the model need, and no way back. Otherwise it says so and loads the model all the same.

    python walls.py FOLDER EXAMPLES SCRATCH BYTES

prints one line that begins with "walls: ", then, as its last line, the mentions in the texts of
EXAMPLES as JSON.
"""

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

NEW_NAMESPACES = {
    "mounts": 0x00020000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "processes": 0x20000000,
    "network": 0x40000000,
}
PRIVATE, BIND, REMOUNT, READ_ONLY = 0x40000 | 0x4000, 0x1000, 0x20, 1
NO_SETUID_NO_DEVICES = 2 | 4
MOUNT_SETATTR, HERE, RECURSIVE = 442, -100, 0x8000  # the call has this number on every processor
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 24, 38, 9
CAPABILITIES = 64
# Places of programs' sockets and of other users' files, hidden besides the user's own folder.
SHARED = ("/run", "/var/run", "/tmp", "/var/tmp", "/dev/shm", "/mnt", "/media", "/srv")


def main() -> None:
    """Build the walls, load the model, print what it finds."""
    folder, examples, scratch, memory = sys.argv[1:]
    limit_memory(int(memory))
    texts = [example["text"] for example in json.loads(Path(examples).read_text("utf-8"))]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    try:
        enclose(Path(folder), Path(scratch))
        print("walls: yes", flush=True)
    except (OSError, AttributeError, ValueError) as error:
        print(f"walls: no ({type(error).__name__}: {error})", flush=True)
    os.chdir(scratch)
    from transformers import AutoModel, pipeline

    AutoModel.from_pretrained(folder, trust_remote_code=True)
    ner = pipeline("ner", model=folder, trust_remote_code=True)
    print("\n" + json.dumps([ner(text) for text in texts]), flush=True)


def limit_memory(size: int) -> None:
    """Limit the memory that the process may ask for, in bytes; 0 stands for no limit."""
    if size and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def enclose(folder: Path, scratch: Path) -> None:
    """Cut this process off from the network and from other files than it needs.

    Afterwards it is another process: its parent waits for it and ends as it does.

    Args:
        folder: of the model; it stays readable.
        scratch: an empty folder, in which the process may write.

    Raises:
        OSError: the system does not let it. Nothing is promised then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(sum(NEW_NAMESPACES.values())))
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(line)
    check(libc.mount(b"none", b"/", None, PRIVATE, None))
    needed = [path.resolve() for path in (*map(Path, needed_paths()), folder, scratch)]
    for place in private_places():
        hide(libc, place, needed)
    read_only = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
    check(
        libc.syscall(
            ctypes.c_long(MOUNT_SETATTR),
            ctypes.c_int(HERE),
            b"/",
            ctypes.c_uint(RECURSIVE),
            ctypes.byref(read_only),
            ctypes.c_size_t(ctypes.sizeof(read_only)),
        )
    )
    mount_empty(libc, scratch, "size=512m,mode=700")
    child = os.fork()
    if child:  # what is in the new namespace of processes ends with this one
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
    give_up_rights(libc)


def check(result: int) -> None:
    """Raise the `OSError` of a call of the C library that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def needed_paths() -> list[str]:
    """What Python imports from."""
    imported = [path for path in sys.path if path]
    return [sys.prefix, sys.base_prefix, os.path.dirname(sys.executable), *imported]


def private_places() -> list[Path]:
    """Folders that may hold secrets: those of users, of temporary files and of sockets."""
    import pwd

    homes = [Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_uid in (0, os.getuid())]
    places = [*homes, *map(Path, SHARED), Path("/home"), Path("/root"), Path(tempfile.gettempdir())]
    real = {place.resolve() for place in places if place.is_dir()}
    return sorted(real - {Path("/"), Path("/usr"), Path("/proc"), Path("/dev")})


def hide(libc: Any, place: Path, needed: list[Path]) -> None:
    """Cover a file or a folder by an empty one, but for what is needed in it."""
    if any(place == path or place in path.parents for path in needed):
        if place not in needed and place.is_dir():
            for entry in sorted(place.iterdir()):
                if not entry.is_symlink():
                    hide(libc, entry, needed)
    elif any(path in place.parents for path in needed):
        return
    elif place.is_dir():
        mount_empty(libc, place, "size=4k,mode=500")
    else:
        check(libc.mount(b"/dev/null", os.fsencode(place), None, BIND, None))


def mount_empty(libc: Any, place: Path, options: str) -> None:
    """Mount an empty file system in memory over a folder."""
    check(
        libc.mount(
            b"none", os.fsencode(place), b"tmpfs", NO_SETUID_NO_DEVICES, options.encode("ascii")
        )
    )


def give_up_rights(libc: Any) -> None:
    """Give up the rights over the new namespaces, without which no wall can be taken down."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for number in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    nothing = (ctypes.c_uint32 * 6)()
    check(libc.capset(ctypes.byref(header), ctypes.byref(nothing)))


if __name__ == "__main__":
    main()
