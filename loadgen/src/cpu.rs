//! Whose processor time it was: the generator's, the receiver's, or that of programs that have nothing to do with the run.
//!
//! Owns: reading `/proc`; which processes listen at an address. Where there is no `/proc`, nothing is said.
//!
//! Invariants: foreign = all busy time − ours − the receiver's; a receiver on another machine has no part.

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
    receiver: f64,
}

/// Watches from its making on.
pub(crate) struct CpuWatch {
    receivers: BTreeSet<u32>,
    workers: Vec<u32>,
    first: Option<Sample>,
}

/// What was used between two moments, in processor seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CpuUse {
    pub(crate) seconds: f64,
    pub(crate) generator: f64,
    /// If the receiver is a process of this machine.
    pub(crate) receiver: Option<f64>,
    pub(crate) foreign: f64,
    /// What the machine's host took away.
    pub(crate) stolen: f64,
    pub(crate) cores: usize,
}

impl CpuUse {
    /// Foreign use in percent of one core.
    pub(crate) fn foreign_percent(&self) -> f64 {
        self.foreign / self.seconds * 100.0
    }
}

impl CpuWatch {
    pub(crate) fn start(receivers: BTreeSet<u32>, workers: Vec<u32>) -> Self {
        let mut watch = Self { receivers, workers, first: None };
        watch.first = watch.sample();
        watch
    }

    /// Use since the start; workers must still be there.
    pub(crate) fn so_far(&self) -> Option<CpuUse> {
        let (first, now) = (self.first?, self.sample()?);
        let busy = now.busy - first.busy;
        let (ours, receiver) = (now.ours - first.ours, now.receiver - first.receiver);
        Some(CpuUse {
            seconds: now.at.duration_since(first.at).as_secs_f64(),
            generator: ours,
            receiver: (!self.receivers.is_empty()).then_some(receiver),
            foreign: (busy - ours - receiver).max(0.0),
            stolen: now.stolen - first.stolen,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    fn sample(&self) -> Option<Sample> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let (busy, stolen) = parse_stat(text.lines().next()?)?;
        let of = |pid: &u32| process_seconds(&pid.to_string()).unwrap_or(0.0);
        let ours = process_seconds("self")? + self.workers.iter().map(of).sum::<f64>();
        // A receiver in this very process is ours.
        let others = self.receivers.iter().filter(|pid| **pid != std::process::id());
        Some(Sample { at: Instant::now(), busy, stolen, ours, receiver: others.map(of).sum() })
    }
}

/// Busy and stolen seconds of all cores: user, nice, system, irq and softirq are busy; idle and iowait are not.
fn parse_stat(line: &str) -> Option<(f64, f64)> {
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let at = |index: usize| fields.get(index).copied();
    let busy = at(0)? + at(1)? + at(2)? + at(5).unwrap_or(0.0) + at(6).unwrap_or(0.0);
    Some((busy / TICKS, at(7).unwrap_or(0.0) / TICKS))
}

fn process_seconds(pid: &str) -> Option<f64> {
    parse_process(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// User and system seconds of a process. Its name may have spaces and brackets.
fn parse_process(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    Some(fields.iter().sum::<f64>() / TICKS)
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
        assert_eq!(parse_process(stat), Some(3.0));
        let line =
            "  0: 0100007F:1CF2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4242 1 0 100";
        assert_eq!(parse_socket(line, "0A", 7_410), Some(4_242));
        assert_eq!(parse_socket(line, "0A", 7_411), None);
        assert_eq!(parse_socket(line, "07", 7_410), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_listener_is_found_by_its_port() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let me = BTreeSet::from([std::process::id()]);
        assert_eq!(listeners(Socket::Tcp, tcp.local_addr().unwrap().port()), me);
        assert_eq!(listeners(Socket::Udp, udp.local_addr().unwrap().port()), me);
    }
}
