#!/usr/bin/env python3
"""Measures the example build_watcher beside watchexec, on a git checkout that is a cargo project.

    benches/build_watcher.py TREE TURNS PROGRAM…   # programs are told by their names: build_watcher, watchexec
    benches/build_watcher.py --join FILE…          # one table of what several runs printed

TREE is made if it is not there: 100,000 files that are committed, and as ignored folders node_modules and target. The programs
take turns, so that what else the machine does hits both. Each turn is a line of JSON; at the end comes a table of medians.
"""
import glob, json, os, statistics, subprocess, sys, tempfile, time

SAVES, SETTLE = 12, '50ms'
OPTIONS = {
    'build_watcher': ['--quiet', '--postpone', '--settle', SETTLE],
    'watchexec': ['--quiet', '--postpone', '--debounce', SETTLE, '--shell=none'],
}
ROWS = [
    ('time to ready', 'ready', 'ms', 0),
    ('CPU until ready', 'cpu_ready', 'ms', 0),
    ('memory (proportional set size)', 'memory', 'MB', 1),
    ('watches', 'watches', '', 0),
    ('watches after a build', 'watches_after', '', 0),
    ('CPU during a build', 'cpu_build', 'ms', 1),
    ('runs that the build caused', 'runs', '', 0),
    ('saves that were answered', 'answered', '', 0),
    ('from the save to the start of the command, median', 'delay', 'ms', 1),
    ('the same, 95 of 100', 'delay_95', 'ms', 1),
]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f: f.write(text)

def make(tree):
    """A checkout as others have it: most of it sources, some hidden folders, and what builds and package managers leave."""
    write(f'{tree}/Cargo.toml', '[package]\nname = "measured"\nversion = "0.1.0"\nedition = "2021"\n')
    write(f'{tree}/src/main.rs', 'fn main() {}\n')
    write(f'{tree}/.gitignore', '/target\nnode_modules\n')
    write(f'{tree}/.github/workflows/ci.yml', 'on: push\n')
    write(f'{tree}/.github/ISSUE_TEMPLATE/bug.md', 'What happened?\n')
    write(f'{tree}/.cargo/config.toml', '')
    write(f'{tree}/.vscode/settings.json', '{}\n')
    for n in range(100_000):
        write(f'{tree}/mod{n % 100}/sub{n // 100 % 100}/file{n // 10_000}.rs', f'// {n}\n')
    for n in range(10_000):
        write(f'{tree}/node_modules/package{n // 10}/lib/file{n % 10}.js', '')
    git = ['git', '-C', tree, '-c', 'user.name=t', '-c', 'user.email=t@example.org']
    for words in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'all']): subprocess.run([*git, *words], check=True)
    build(tree)

def build(tree):
    """A build from nothing: cargo, and as many files as one with many dependencies writes."""
    subprocess.run(['rm', '-rf', f'{tree}/target'], check=True)
    env = {k: v for k, v in os.environ.items() if k not in ('CARGO_TARGET_DIR', 'RUSTC_WRAPPER')}
    subprocess.run(['cargo', 'build', '--quiet', '--offline'], cwd=tree, env=env, check=True)
    for n in range(5_000): write(f'{tree}/target/debug/deps/d{n // 100}/f{n % 100}.o', 'x' * 1000)

def family(pid):
    return [pid, *map(int, open(f'/proc/{pid}/task/{pid}/children').read().split())]

def watches(pid):
    """As the kernel lists them."""
    count = 0
    for info in glob.glob(f'/proc/{pid}/fdinfo/*'):
        try:
            with open(info) as f: count += sum(line.startswith('inotify') for line in f)
        except OSError: pass
    return count

def cpu(pid):
    """Milliseconds of all threads, those that have ended included; the kernel counts in hundredths of a second."""
    fields = [open(f'/proc/{p}/stat').read().rsplit(')', 1)[1].split() for p in family(pid)]
    return sum(int(f[11]) + int(f[12]) for f in fields) * 1000 / os.sysconf('SC_CLK_TCK')

def memory(pid):
    lines = [line for p in family(pid) for line in open(f'/proc/{p}/smaps_rollup')]
    return sum(int(line.split()[1]) for line in lines if line.startswith('Pss:')) / 1000

def measure(tree, program):
    with tempfile.NamedTemporaryFile('r') as stamps, open(stamps.name, 'a') as out:
        begun = time.monotonic()
        # The command says when it started, and does nothing else.
        command = [program, *OPTIONS[os.path.basename(program)], '--', 'date', '+%s%N']
        child = subprocess.Popen(command, cwd=tree, stdout=out)
        try: return observe(tree, child.pid, begun, lambda: open(stamps.name).read().split())
        finally:
            child.terminate()
            child.wait()

def observe(tree, pid, begun, runs):
    last, ready = 0, begun
    while not last or time.monotonic() - ready < 1.5:
        now, count = time.monotonic(), watches(pid)
        if count != last: last, ready = count, now
        time.sleep(0.005 if count < 100 else 0.03)
    result = {'ready': (ready - begun) * 1000, 'watches': last, 'cpu_ready': cpu(pid), 'memory': memory(pid), 'delays': []}
    for number in range(SAVES):
        time.sleep(0.3 + 0.007 * (number % 5))
        before = len(runs())
        write(f'{tree}/src/main.rs', f'fn main() {{}} // {number}\n')
        saved = time.time_ns()
        while len(runs()) == before and time.time_ns() - saved < 2e9: time.sleep(0.002)
        if len(runs()) > before: result['delays'].append((int(runs()[before]) - saved) / 1e6)
    time.sleep(0.3)
    before, spent = len(runs()), cpu(pid)
    build(tree)
    time.sleep(1)
    return result | {'cpu_build': cpu(pid) - spent, 'runs': len(runs()) - before, 'watches_after': watches(pid)}

def table(results):
    tools = sorted({r['tool'] for r in results})
    print(f'| | {" | ".join(tools)} |\n|---|' + '---|' * len(tools))
    for label, key, unit, digits in ROWS:
        cells = []
        for tool in tools:
            turns = [r for r in results if r['tool'] == tool]
            delays = sorted(delay for r in turns for delay in r['delays'])
            if key == 'delay': value = statistics.median(delays)
            elif key == 'answered': cells.append(f'{len(delays)} of {len(turns) * SAVES}'); continue
            elif key == 'delay_95': value = delays[int(len(delays) * 0.95)]
            else: value = statistics.median(r[key] for r in turns)
            cells.append(f'{value:,.{digits}f} {unit}'.strip())
        print(f'| {label} | {" | ".join(cells)} |')
    print(f'\n{len(results) // len(tools)} turns each, of {SAVES} saves')

if __name__ == '__main__':
    if sys.argv[1] == '--join':
        results = [json.loads(line) for name in sys.argv[2:] for line in open(name) if line.startswith('{')]
    else:
        tree, turns, programs, results = sys.argv[1], int(sys.argv[2]), sys.argv[3:], []
        if not os.path.exists(tree): make(tree)
        for turn in range(turns):
            for program in programs if turn % 2 == 0 else programs[::-1]:
                results.append({'tool': os.path.basename(program), **measure(tree, os.path.abspath(program))})
                print(json.dumps(results[-1]), flush=True)
    table(results)
