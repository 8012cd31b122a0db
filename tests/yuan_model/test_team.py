"""The threads of a compiled step do all of a phase once and nothing of the next before, however they are delayed."""

import shutil
import subprocess
from pathlib import Path

import pytest

import yuan_model.native

HEADERS = Path(yuan_model.native.__file__).parent
PROGRAM = """
#include <cstdio>
#include "vectors.h"
int main() {
    constexpr int RUNS = 300, PHASES = 7, ITEMS = 3;
    std::atomic<int> done[PHASES] = {}, wrong{0};
    yuan::Team team(3);
    team.start([&](yuan::Team::Member me) {
        for (int phase = 0; phase < PHASES; phase++)
            team.phase(me, ITEMS, [&](int) {
                for (int before = 0; before < phase; before++)
                    if (done[before] != ITEMS) wrong++;
                done[phase]++;
            });
    });
    for (int run = 0; run < RUNS; run++) {
        for (auto &one : done) one = 0;
        team.run();
        for (auto &one : done)
            if (one != ITEMS) wrong++;
    }
    std::printf("%d", wrong.load());
}
"""
PAUSE = "std::this_thread::sleep_for(std::chrono::microseconds(phase % 3 ? 0 : 50))"


def test_a_thread_that_sleeps_at_the_end_of_a_phase_lets_nobody_into_the_next_but_one(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no g++ is installed")
    flags = ["-O1", "-Wno-psabi", "-std=c++20", "-pthread", "-include", "chrono", f"-I{HEADERS}"]
    source, program = tmp_path / "team.cpp", tmp_path / "team"
    source.write_text(PROGRAM, encoding="utf-8")
    command = [compiler, *flags, f"-DYUAN_BETWEEN_STORES={PAUSE}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "0"
