"""Train on a folder of labelled images, export the student for ONNX Runtime, and predict with it.

    python examples/distil_from_python.py IMAGES OUT [RECIPE]

IMAGES holds train/CLASS/* and test/CLASS/*. RECIPE is a TOML file or the name of a recipe that comes with the package;
without it, the size of the images decides. Run again after an interruption, it continues.
"""

import sys
from pathlib import Path

import sdk
import trainer


class Printed(trainer.Silent):
    """Print messages; `begin`, `step` and `end` could draw a progress bar."""

    def tell(self, text: str) -> None:
        print(text)


def main(images: Path, out: Path, recipe: str | None = None) -> None:
    run = trainer.distill(images, out / "run", recipe=recipe, progress=Printed())
    print(f"top-1 on the test images: {run.student_record().results['test'].top1:.1%}")

    student, labels, preprocessing = trainer.load_student(run)
    test = [(path, labels.index(path.parent.name)) for path in sorted(images.glob("test/*/*"))]
    bundle = sdk.export(
        student, target="onnx", out=out / "bundle", labels=labels, preprocessing=preprocessing, validation=test
    )
    with sdk.Classifier(bundle.path) as classifier:
        prediction = classifier.predict(test[0][0])
    print(f"{test[0][0]}: {prediction.label} ({prediction.score:.0%})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
