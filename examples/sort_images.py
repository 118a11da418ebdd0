"""A small app: sort the images of a folder into one folder for each class.

    python examples/sort_images.py BUNDLE INBOX SORTED --sure 0.6

Images with a lower score go to `unsure/`. Files that can't be read stay where they are, and are named on stderr.
"""

import argparse
import shutil
import sys
from pathlib import Path

from sdk import Classifier, ImageError, LibkdError


def main() -> int:
    arguments = argparse.ArgumentParser(description="Sort images into folders by their class.")
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("inbox", type=Path)
    arguments.add_argument("sorted", type=Path)
    arguments.add_argument("--sure", type=float, default=0.6, help="the lowest score that counts as sure")
    given = arguments.parse_args()
    if not given.inbox.is_dir():
        print(f"{given.inbox}: no such folder; name the folder with the images", file=sys.stderr)
        return 2
    try:
        return sort(given.bundle, given.inbox, given.sorted, given.sure)
    except LibkdError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code


def sort(bundle: Path, inbox: Path, target: Path, sure: float) -> int:
    files = sorted(file for file in inbox.iterdir() if file.is_file())
    left = 0
    with Classifier(bundle, score_threshold=sure, top_k=1) as classifier:
        for file, answer in zip(files, classifier.stream(files, errors="return"), strict=True):
            if isinstance(answer, ImageError):
                print(answer, file=sys.stderr)
                left += 1
                continue
            folder = target / (answer.label or "unsure").replace("/", "-")
            if (folder / file.name).exists():
                print(f"{file}: {folder} has a file of this name; rename it", file=sys.stderr)
                left += 1
                continue
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(file, folder)
            print(f"{file.name} -> {folder.name} ({answer.score:.0%})")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
