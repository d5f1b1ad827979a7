"""Runs the benchmarks one after another and keeps what they print, one line of JSON each, in a results file."""

import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from reporting import figures

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def output_of(command):
    """What the command prints, or nothing where it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine(binaries, python):
    """What the figures depend on; what cannot be found out is absent."""
    facts = {"date": datetime.date.today().isoformat()}
    gpus = output_of(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    if gpus:
        name, memory, driver = gpus.splitlines()[0].split(", ")
        facts |= {"gpu": f"{name}, {memory}", "driver": f"driver {driver}"}
    devices = output_of([str(binaries / "wick"), "devices", "--json"])
    if devices:
        found = json.loads(devices)
        cpu = found["devices"][0]
        facts["cpu"] = f"{cpu['threads']} threads of {cpu['name']}"
        libraries = {"oneDNN": cpu["libraries"]["onednn"]}
        libraries |= {name: l["text"] for name, l in found["cuda"]["libraries"].items() if l["there"]}
        facts["libraries"] = ", ".join(f"{name} {text}" for name, text in libraries.items())
    versions = ("import importlib.metadata as m\nfor n in ('torch', 'transformers', 'peft'):\n"
                " try: print(n, m.version(n))\n except m.PackageNotFoundError: pass")
    facts["torch"] = ", ".join(output_of([python, "-c", versions]).splitlines())
    facts["commit"] = output_of(["git", "describe", "--always", "--dirty"])
    return {name: text for name, text in facts.items() if text}


def json_lines(text):
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:  # cut off at the limit
                continue


def run_one(command, limit):
    """(exit code, seconds, JSON objects printed, why it failed). Ends the command and what it started at the limit."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=ROOT,
                                       start_new_session=True)
        except OSError as error:
            return 127, 0.0, [], str(error)
        try:
            rc = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            rc = process.wait()
            return rc, time.monotonic() - start, list(json_lines(read(out))), f"not done after {limit} s"
        said = [line for line in read(err).splitlines() if line.strip()]
        error = "" if rc == 0 else f"exit code {rc}: {said[-1].strip()[:200] if said else 'no message'}"
        return rc, time.monotonic() - start, list(json_lines(read(out))), error


def read(file):
    file.seek(0)
    return file.read()


def chosen(name, only):
    """`only` names commands or, up to a dot, groups of them: train, train.llama-3.2-1b."""
    return not only or any(name == part or name.startswith(part + ".") for part in only)


def counts(path):
    """How often each command has already run well."""
    done = {}
    if path.exists():
        for line in map(json.loads, path.read_text().splitlines()):
            if line.get("rc") == 0:
                done[line["ran"]] = done.get(line["ran"], 0) + 1
    return done


def forget(path, only):
    """Takes the lines of the chosen commands out of the file."""
    def kept(line):
        name = line.get("part", line.get("ran"))
        return name is None or not chosen(name, only)

    lines = [text for text in path.read_text().splitlines() if kept(json.loads(text))]
    new = path.with_suffix(".new")
    new.write_text("".join(text + "\n" for text in lines))
    new.replace(path)


def check_machine(path, facts):
    """Figures of two machines in one file would be compared with each other."""
    with path.open() as file:
        before = json.loads(file.readline() or "{}").get("machine", {})
    for name in figures.SAME_MACHINE:
        if before.get(name) != facts.get(name):
            raise SystemExit(f"{path}: has figures of another machine ({name} {before.get(name)}, here {facts.get(name)})")


def run(options):
    commands = json.loads(options.commands.read_text())
    unknown = [part for part in options.only if not any(chosen(c["name"], [part]) for c in commands)]
    if unknown:
        raise SystemExit(f"{options.commands}: has no {', '.join(unknown)}")
    binaries = options.bin.resolve()
    facts = machine(binaries, options.python)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if options.results.exists():
        check_machine(options.results, facts)
        if options.again:
            forget(options.results, options.only)
    done, start, left = counts(options.results), time.monotonic(), []
    with options.results.open("a") as file:
        def keep(line):
            file.write(json.dumps(line) + "\n")
            file.flush()

        if file.tell() == 0:
            keep({"machine": facts})
        for turn in range(options.times):  # ours and the peers' by turns
            for c in commands:
                name = c["name"]
                if not chosen(name, options.only) or done.get(name, 0) > turn:
                    continue
                limit = c["limit"]
                if options.within:
                    rest = options.within - (time.monotonic() - start)
                    if rest < limit:
                        left.append(name)
                        continue
                command = [part.replace("{bin}", str(binaries)).replace("{python}", options.python)
                           for part in c["command"]]
                print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
                rc, seconds, records, error = run_one(command, limit)
                for record in records:
                    keep({"part": name, "record": record})
                keep({"ran": name, "rc": rc, "seconds": round(seconds, 1), "load": os.getloadavg()[0],
                      "command": [pathlib.Path(part).name if part == command[0] else part for part in command],
                      "error": error.replace(f"{ROOT}/", "")})
                print(f"{len(records)} lines in {seconds:.0f} s{'; ' + error if error else ''}", file=sys.stderr)
    if left:
        print(f"left for another call, with the same results file: {', '.join(dict.fromkeys(left))}", file=sys.stderr)
