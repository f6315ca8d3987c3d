"""Makes the lock files from pyproject.toml, or says whether they are still the ones it asks for.

`python requirements/lock.py [--upgrade]` resolves `dev.lock`, then `run.lock` to the same versions. Pins
that still fit stay as they are, unless `--upgrade` is given. Each file opens with a digest of the
requirements it was made from; `--check` compares that digest and so needs no network.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DIGEST_LINE = "# requirements of pyproject.toml, sha256: "


def requirements() -> dict[str, list[str]]:
    """What each lock file must satisfy, by file name.

    The build backend is part of both: the project itself is installed without build isolation, that is
    without a download of its own.
    """
    pyproject = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    project = pyproject["project"]
    run = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    return {"dev.lock": [*run, *project["optional-dependencies"]["dev"]], "run.lock": run}


def digest(wanted: list[str]) -> str:
    """Hex SHA-256 over the requirements, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(wanted)).encode()).hexdigest()


def resolve(name: str, wanted: list[str], options: list[str]) -> None:
    """Write one lock file with `uv pip compile`: every platform, every Python from 3.11 on, with hashes."""
    path = FOLDER / name
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--universal"]
    command += ["--python-version=3.11", "--generate-hashes", "--no-header", "--no-annotate"]
    command += [f"--output-file={path}", *options]
    subprocess.run(command, input="\n".join(wanted), text=True, check=True, stdout=subprocess.DEVNULL)
    path.write_text(f"{DIGEST_LINE}{digest(wanted)}\n# Made by `make lock`.\n{path.read_text()}")


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    if arguments == ["--check"]:
        stale = [
            name
            for name, wanted in requirements().items()
            if not (FOLDER / name).read_text().startswith(DIGEST_LINE + digest(wanted))
        ]
        for name in stale:
            print(f"requirements/{name} was not made from this pyproject.toml: run `make lock`.")
        return 1 if stale else 0
    if arguments not in ([], ["--upgrade"]):
        print(__doc__)
        return 2
    wanted = requirements()
    resolve("dev.lock", wanted["dev.lock"], arguments)
    resolve("run.lock", wanted["run.lock"], [f"--constraint={FOLDER / 'dev.lock'}"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
