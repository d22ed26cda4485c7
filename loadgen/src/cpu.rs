//! Whose processor time it was: the generator's, the receiver's, or that of programs that have nothing to do with the run.
//!
//! Owns: reading `/proc`; which processes listen at an address. Where there is no `/proc`, nothing is said.
//!
//! Invariants: foreign = all busy time − ours − the receiver's; a receiver on another machine has no part; of a receiver
//! that was replaced during a run nothing is known, and nothing of what others used.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

/// Ticks of `/proc` in a second: a constant of the kernel's interface on every machine that Linux has today.
const TICKS: f64 = 100.0;

/// Processor seconds at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    busy: f64,
    stolen: f64,
    ours: f64,
    /// Unless one of its processes is gone.
    receiver: Option<f64>,
}

/// Watches from its making on.
pub(crate) struct CpuWatch {
    /// With the start of each, since numbers come again.
    receivers: Vec<(u32, Option<u64>)>,
    workers: Vec<u32>,
    first: Option<Sample>,
}

/// What was used between two moments, in processor seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CpuUse {
    pub(crate) seconds: f64,
    pub(crate) generator: f64,
    /// If the receiver is a process of this machine, and the same one all the time.
    pub(crate) receiver: Option<f64>,
    /// Whether a process of the receiver ended meanwhile.
    pub(crate) is_receiver_gone: bool,
    /// Unless the receiver's part is missing.
    pub(crate) foreign: Option<f64>,
    /// What the machine's host took away.
    pub(crate) stolen: f64,
    pub(crate) cores: usize,
}

impl CpuUse {
    /// Foreign use in percent of one core.
    pub(crate) fn foreign_percent(&self) -> Option<f64> {
        Some(self.foreign? / self.seconds * 100.0)
    }
}

impl CpuWatch {
    pub(crate) fn start(receivers: BTreeSet<u32>, workers: Vec<u32>) -> Self {
        // A receiver in this very process is ours.
        let others = receivers.into_iter().filter(|pid| *pid != std::process::id());
        let receivers =
            others.map(|pid| (pid, process(&pid.to_string()).map(|process| process.started))).collect();
        let mut watch = Self { receivers, workers, first: None };
        watch.first = watch.sample();
        watch
    }

    /// Use since the start; nothing if a worker is gone.
    pub(crate) fn so_far(&self) -> Option<CpuUse> {
        Some(self.between(&self.first?, &self.sample()?))
    }

    fn between(&self, first: &Sample, now: &Sample) -> CpuUse {
        let ours = now.ours - first.ours;
        let receiver = first.receiver.zip(now.receiver).map(|(first, now)| now - first);
        CpuUse {
            seconds: now.at.duration_since(first.at).as_secs_f64(),
            generator: ours,
            receiver: receiver.filter(|_| !self.receivers.is_empty()),
            is_receiver_gone: receiver.is_none(),
            foreign: receiver.map(|receiver| (now.busy - first.busy - ours - receiver).max(0.0)),
            stolen: now.stolen - first.stolen,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn sample(&self) -> Option<Sample> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let (busy, stolen) = parse_stat(text.lines().next()?)?;
        let seconds = |pid: &u32| Some(process(&pid.to_string())?.seconds);
        let workers: Option<f64> = self.workers.iter().map(seconds).sum();
        let ours = process("self")?.seconds + workers?;
        let same = |(pid, started): &(u32, Option<u64>)| {
            process(&pid.to_string()).filter(|process| Some(process.started) == *started)
        };
        let receiver = self.receivers.iter().map(|receiver| Some(same(receiver)?.seconds)).sum();
        Some(Sample { at: Instant::now(), busy, stolen, ours, receiver })
    }
}

/// Busy and stolen seconds of all cores: user, nice, system, irq and softirq are busy; idle and iowait are not.
fn parse_stat(line: &str) -> Option<(f64, f64)> {
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let at = |index: usize| fields.get(index).copied();
    let busy = at(0)? + at(1)? + at(2)? + at(5).unwrap_or(0.0) + at(6).unwrap_or(0.0);
    Some((busy / TICKS, at(7).unwrap_or(0.0) / TICKS))
}

/// A process that has not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    /// User and system time.
    seconds: f64,
    /// When it started, in ticks since the machine did.
    started: u64,
}

fn process(pid: &str) -> Option<Process> {
    parse_process(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A process that ended and still waits for its parent is none. Its name may have spaces and brackets.
fn parse_process(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process { seconds: (number(11)? + number(12)?) as f64 / TICKS, started: number(19)? })
}

/// A protocol and its tables of sockets.
#[derive(Clone, Copy)]
pub(crate) enum Socket {
    Tcp,
    Udp,
}

/// The processes of this machine that listen at a port.
pub(crate) fn listeners(socket: Socket, port: u16) -> BTreeSet<u32> {
    let (tables, listening) = match socket {
        Socket::Tcp => (["tcp", "tcp6"], "0A"),
        // A socket of UDP that nobody is connected to.
        Socket::Udp => (["udp", "udp6"], "07"),
    };
    let mut inodes = BTreeSet::new();
    for table in tables {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| parse_socket(line, listening, port)));
    }
    if inodes.is_empty() {
        return BTreeSet::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        open_files(*pid).any(|target| {
            let inode = target.to_str().and_then(|name| name.strip_prefix("socket:["));
            inode
                .and_then(|inode| inode.trim_end_matches(']').parse().ok())
                .is_some_and(|i: u64| inodes.contains(&i))
        })
    })
    .collect()
}

/// What the descriptors of a process are; of others' processes nothing is seen.
pub(crate) fn open_files(pid: u32) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok())
}

/// The inode of a socket's line, if it listens at the port.
fn parse_socket(line: &str, listening: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == listening;
    if is_it { fields.get(9)?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(parse_stat("cpu  100 20 30 4000 50 6 7 8 0 0"), Some((1.63, 0.08)));
        assert_eq!(parse_stat("cpu  100"), None);
        let stat = "17 (a ) (b) S 1 17 17 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0 5 6 7";
        assert_eq!(parse_process(stat), Some(Process { seconds: 3.0, started: 5 }));
        assert_eq!(parse_process(&stat.replace(" S 1 ", " Z 1 ")), None, "it ended");
        let line =
            "  0: 0100007F:1CF2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4242 1 0 100";
        assert_eq!(parse_socket(line, "0A", 7_410), Some(4_242));
        assert_eq!(parse_socket(line, "0A", 7_411), None);
        assert_eq!(parse_socket(line, "07", 7_410), None);
    }

    /// A server that was restarted took its processor time with it: the report said -2.04 cores, and called the rest foreign.
    #[test]
    fn of_a_receiver_that_was_replaced_nothing_is_known() {
        let watch = CpuWatch { receivers: vec![(7, Some(1))], workers: Vec::new(), first: None };
        let at = Instant::now();
        let first = Sample { at, busy: 10.0, stolen: 0.0, ours: 1.0, receiver: Some(6.0) };
        let later = |receiver| Sample { busy: 15.0, ours: 2.0, receiver, ..first };
        let known = watch.between(&first, &later(Some(9.0)));
        assert_eq!((known.receiver, known.foreign, known.is_receiver_gone), (Some(3.0), Some(1.0), false));
        let replaced = watch.between(&first, &later(None));
        assert_eq!((replaced.receiver, replaced.foreign, replaced.is_receiver_gone), (None, None, true));
        let away = CpuWatch { receivers: Vec::new(), ..watch };
        let elsewhere = away.between(&Sample { receiver: Some(0.0), ..first }, &later(Some(0.0)));
        assert_eq!((elsewhere.receiver, elsewhere.foreign), (None, Some(4.0)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn processes_that_ended_or_are_others_with_their_number_are_gone() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let receivers = BTreeSet::from([child.id()]);
        let mut watch = CpuWatch::start(receivers, Vec::new());
        assert!(!watch.so_far().unwrap().is_receiver_gone);
        watch.receivers[0].1 = Some(1);
        assert!(watch.so_far().unwrap().is_receiver_gone, "another one has its number");
        let workers = CpuWatch::start(BTreeSet::new(), vec![child.id()]);
        let watch = CpuWatch::start(BTreeSet::from([child.id()]), Vec::new());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(watch.so_far().unwrap().is_receiver_gone);
        assert_eq!(workers.so_far(), None, "a worker took its time with it");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_listener_is_found_by_its_port() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // A child of another test has all files of this process until it runs its program.
        let is_mine = |socket, port| listeners(socket, port).contains(&std::process::id());
        assert!(is_mine(Socket::Tcp, tcp.local_addr().unwrap().port()));
        assert!(is_mine(Socket::Udp, udp.local_addr().unwrap().port()));
        let ended = tcp.local_addr().unwrap().port();
        drop(tcp);
        assert!(!is_mine(Socket::Tcp, ended));
    }
}
