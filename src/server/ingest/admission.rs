//! Who may start a handshake.
//!
//! Owns: counting unfinished handshakes, by address and in all. Leaves to others: connections (`super`).
//!
//! Invariants: one address never has more than its part of all handshakes; addresses are counted only while they have one.
//! An IPv6 address counts as its network of 64 bits: one peer has all of that.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{HANDSHAKES_MAX, HANDSHAKES_OF_ADDRESS_MAX, RETRY_ABOVE};

#[derive(Clone, Default)]
pub(super) struct Admission(Arc<Mutex<Handshakes>>);

#[derive(Default)]
struct Handshakes {
    count: usize,
    by_address: HashMap<IpAddr, usize>,
}

pub(super) enum Decision {
    /// Go on; counts until it is dropped.
    Admit(Handshake),
    /// Let the address show that it receives what it is sent.
    Retry,
    Refuse,
}

/// An unfinished handshake.
pub(super) struct Handshake {
    admission: Admission,
    address: IpAddr,
}

impl Admission {
    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.0.lock().expect("nothing panics while it holds the handshakes")
    }

    pub(super) fn decide(&self, address: IpAddr, is_validated: bool) -> Decision {
        let address = network_of(address);
        let mut handshakes = self.lock();
        let of_address = handshakes.by_address.get(&address).copied().unwrap_or(0);
        if handshakes.count >= HANDSHAKES_MAX || of_address >= HANDSHAKES_OF_ADDRESS_MAX {
            return Decision::Refuse;
        }
        if handshakes.count >= RETRY_ABOVE && !is_validated {
            return Decision::Retry;
        }
        handshakes.count += 1;
        *handshakes.by_address.entry(address).or_default() += 1;
        Decision::Admit(Handshake { admission: self.clone(), address })
    }
}

fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut handshakes = self.admission.lock();
        handshakes.count -= 1;
        let of_address = handshakes.by_address.get_mut(&self.address).expect("the address has a handshake");
        *of_address -= 1;
        if *of_address == 0 {
            handshakes.by_address.remove(&self.address);
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
    fn an_address_shows_itself_under_load_and_has_a_limit_of_its_own() {
        let admission = Admission::default();
        let (one, two) = (address("192.0.2.1"), address("192.0.2.2"));
        let mut held = Vec::new();
        let mut decide = |address: IpAddr, is_validated: bool| match admission.decide(address, is_validated) {
            Decision::Admit(handshake) => {
                held.push(handshake);
                "admit"
            }
            Decision::Retry => "retry",
            Decision::Refuse => "refuse",
        };
        for _ in 0..RETRY_ABOVE {
            assert_eq!(decide(one, false), "admit");
        }
        assert_eq!((decide(two, false), decide(two, true)), ("retry", "admit"));
        for _ in RETRY_ABOVE..HANDSHAKES_OF_ADDRESS_MAX {
            assert_eq!(decide(one, true), "admit");
        }
        assert_eq!((decide(one, true), decide(one, false), decide(two, true)), ("refuse", "refuse", "admit"));
        held.clear();
        assert!(matches!(admission.decide(one, false), Decision::Admit(_)));
        assert!(admission.lock().by_address.is_empty(), "addresses without a handshake take no memory");
    }

    #[test]
    fn a_network_is_one_peer() {
        let networks =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"]
                .map(|text| network_of(address(text)));
        assert!(networks[0] == networks[1] && networks[1] != networks[2] && networks[3] == networks[4]);
    }
}
