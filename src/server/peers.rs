//! How many each peer has of something that is limited: handshakes, connections.
//!
//! Owns: counting by network, limits of all and of one. Leaves to others: what is counted, and what a refusal means.
//!
//! Invariants: one network never has more than its part; networks are counted only while they have something.
//! An IPv6 address counts as its network of 64 bits: one peer has all of that.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

/// Counts by network; clones share them.
#[derive(Clone, Default)]
pub struct Peers(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// Of all networks together.
    pub all: usize,
    /// Of one.
    pub of_network: usize,
}

/// A place among those of a network, free when it is dropped.
pub struct Place {
    peers: Peers,
    network: IpAddr,
    /// Places that were taken before it.
    pub before: usize,
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nothing panics while it holds the counts")
    }

    /// A place for a peer; `None` if there is none for it.
    pub fn take(&self, address: IpAddr, limits: PeerLimits) -> Option<Place> {
        let network = network_of(address);
        let mut counts = self.lock();
        let of_network = counts.by_network.get(&network).copied().unwrap_or(0);
        if counts.all >= limits.all || of_network >= limits.of_network {
            return None;
        }
        let before = counts.all;
        counts.all += 1;
        *counts.by_network.entry(network).or_default() += 1;
        Some(Place { peers: self.clone(), network, before })
    }

    /// Whether nobody has anything.
    pub fn is_empty(&self) -> bool {
        let counts = self.lock();
        counts.all == 0 && counts.by_network.is_empty()
    }
}

fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.lock();
        counts.all -= 1;
        let of_network = counts.by_network.get_mut(&self.network).expect("the network has a place");
        *of_network -= 1;
        if *of_network == 0 {
            counts.by_network.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_network_has_its_part_and_all_together_have_theirs() {
        let (peers, limits) = (Peers::default(), PeerLimits { all: 5, of_network: 3 });
        let (one, two) = (address("192.0.2.1"), address("192.0.2.2"));
        let held: Vec<Place> = (0..3).map(|_| peers.take(one, limits).unwrap()).collect();
        assert!(peers.take(one, limits).is_none());
        let others: Vec<Place> = (0..2).map(|_| peers.take(two, limits).unwrap()).collect();
        assert_eq!(others[1].before, 4);
        assert!(peers.take(address("192.0.2.3"), limits).is_none());
        drop(held);
        drop(peers.take(two, limits).unwrap());
        drop(others);
        assert!(peers.is_empty(), "networks without a place take no memory");
    }

    #[test]
    fn a_network_is_one_peer() {
        let networks =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"]
                .map(|text| network_of(address(text)));
        assert!(networks[0] == networks[1] && networks[1] != networks[2] && networks[3] == networks[4]);
    }
}
