"""CPU time and memory of reading annotated text, each in a process of its own.

python -m benchmarks.reading [--repetitions N] [--output FILE]

The file repeats the sentences of samples/zh, a character a row; the same texts are read as JSONL.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from contrastive_ner.data.conversion import convert_records
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.files import write_json
from contrastive_ner.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
SENTENCES, NESTED = 44_746, 16_000
FORMATS = {"columns": "conll", "jsonl": "jsonl"}
PEAK = """
def peak():  # not ru_maxrss, which begins with that of the parent
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
"""
READ = """
import json, resource, sys
from contrastive_ner.data.readers import read_records
before = resource.getrusage(resource.RUSAGE_SELF)
records, report = read_records(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF)
seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"seconds": seconds, "megabytes": peak()}))
"""
FLATTEN = """
import json, sys, time
from contrastive_ner.data.records import Mention, outermost
mentions = [Mention(3 * i, 3 * i + 2, "A") for i in range(int(sys.argv[1]))]
begun = time.process_time()
outermost(mentions)
seconds = time.process_time() - begun
print(json.dumps({"seconds": seconds, "megabytes": peak()}))
"""


def measured(code: str, argument: str) -> dict[str, float]:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, argument],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> int:
    """Measure, print a row a job, write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3, help="processes of each job [3]")
    output = ROOT / "results" / "reading.json"
    parser.add_argument("--output", type=Path, default=output, help="JSON file to write")
    arguments = parser.parse_args()
    records = read_records(ROOT / "samples" / "zh" / "train.jsonl")[0]
    flat = [Record(r.id, r.text, [m for m in r.entities if m.end - m.start > 1]) for r in records]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = {f"flatten {NESTED:,} mentions of one text": (FLATTEN, str(NESTED), 0)}
        for format, target in FORMATS.items():
            path = Path(folder) / f"big.{format}"
            convert_records(list(islice(cycle(flat), SENTENCES)), path, target)
            jobs[f"read {SENTENCES:,} sentences, {format}"] = (READ, str(path), path.stat().st_size)
        for name, (code, argument, size) in jobs.items():
            runs = [measured(code, argument) for _ in range(arguments.repetitions)]
            rows[name] = {key: median(run[key] for run in runs) for key in runs[0]}
            rows[name]["file_megabytes"] = size / 1e6
            print(name, {key: round(value, 2) for key, value in rows[name].items()})
    command = "python -m benchmarks.reading"
    setting = {"repetitions": arguments.repetitions, "command": command}
    write_json({"rows": rows, **setting, **provenance()}, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
