#!/usr/bin/env python3
"""The example build_watcher beside watchexec, on a git checkout that is a cargo project.

benches/build_watcher.py TREE PROGRAM… prints one line of JSON for each program (build_watcher or watchexec). The tree's file
src/main.rs is rewritten, and its target/ is filled and removed.
"""
import glob, json, os, statistics, subprocess, sys, tempfile, time

SETTLE = '50ms'
OPTIONS = {
    'build_watcher': ['--quiet', '--postpone', '--settle', SETTLE],
    'watchexec': ['--quiet', '--postpone', '--debounce', SETTLE, '--shell=none'],
}


def watches(pid):
    n = 0
    for info in glob.glob(f'/proc/{pid}/fdinfo/*'):
        try:
            with open(info) as f: n += sum(line.startswith('inotify') for line in f)
        except OSError: pass
    return n

def cpu(pid):
    fields = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf('SC_CLK_TCK')

def family(pid):
    own = open(f'/proc/{pid}/task/{pid}/children').read().split()
    return [pid] + [int(p) for p in own]

def memory(pid, key):
    total = 0
    for p in family(pid):
        for line in open(f'/proc/{p}/smaps_rollup' if key == 'Pss:' else f'/proc/{p}/status'):
            if line.startswith(key): total += int(line.split()[1])
    return total

def measure(tree, program):
    tool = os.path.basename(program)
    stamps = tempfile.NamedTemporaryFile().name
    open(stamps, 'w').close()
    command = ['sh', '-c', f'date +%s%N >> {stamps}']
    begun = time.monotonic()
    child = subprocess.Popen([program, *OPTIONS[tool], '--', *command], cwd=tree)
    last, ready = 0, 0
    while time.monotonic() - begun < 20:
        n = watches(child.pid)
        now = time.monotonic() - begun
        if n != last: last, ready = n, now
        if n and now - ready > 1.5: break
        time.sleep(0.005 if n < 100 else 0.03)
    result = {'tool': tool, 'ready_ms': round(ready * 1000), 'watches': last, 'cpu_ready_ms': cpu(child.pid),
              'pss_kib': memory(child.pid, 'Pss:'), 'rss_kib': memory(child.pid, 'VmRSS:'), 'peak_kib': memory(child.pid, 'VmHWM:')}

    # Delay from the end of a save to the start of the command.
    delays = []
    for i in range(20):
        time.sleep(0.25 + 0.007 * (i % 5))
        before = os.path.getsize(stamps)
        with open(f'{tree}/src/main.rs', 'w') as f: f.write(f'fn main() {{}} // {i}\n')
        saved = time.time_ns()
        limit = time.monotonic() + 3
        while os.path.getsize(stamps) == before and time.monotonic() < limit: time.sleep(0.002)
        time.sleep(0.02)
        text = open(stamps).read().split()
        if os.path.getsize(stamps) > before: delays.append((int(text[-1]) - saved) / 1e6)
    result['delay_ms_median'] = round(statistics.median(delays), 1) if delays else None
    result['delay_ms_max'] = round(max(delays), 1) if delays else None
    result['answered'] = len(delays)

    # A build: cargo, and as many files as a large one writes.
    before, runs, started = cpu(child.pid), open(stamps).read().count('\n'), time.monotonic()
    env = {k: v for k, v in os.environ.items() if k != 'CARGO_TARGET_DIR'}
    subprocess.run(['cargo', 'build', '--quiet', '--offline'], cwd=tree, env=env, check=False)
    for a in range(200):
        d = f'{tree}/target/debug/deps/d{a}'
        os.makedirs(d)
        for b in range(100):
            with open(f'{d}/f{b}.o', 'w') as f: f.write('x' * 1000)
    result['build_s'] = round(time.monotonic() - started, 1)
    time.sleep(1)
    result['cpu_build_ms'] = cpu(child.pid) - before
    result['runs_for_build'] = open(stamps).read().count('\n') - runs
    result['watches_after_build'] = watches(child.pid)
    child.terminate()
    try: child.wait(10)
    except subprocess.TimeoutExpired: child.kill()
    subprocess.run(['rm', '-rf', f'{tree}/target'])
    print(json.dumps(result))
    os.remove(stamps)


for program in sys.argv[2:]:
    measure(sys.argv[1], program)
