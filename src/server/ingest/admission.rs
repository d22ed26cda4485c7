//! Who may start a handshake.
//!
//! Owns: what a handshake is answered. Leaves to others: counting unfinished ones (`crate::peers`), connections (`super`).

use std::net::IpAddr;

use super::{HANDSHAKES_MAX, HANDSHAKES_OF_ADDRESS_MAX, RETRY_ABOVE};
use crate::peers::{PeerLimits, Peers, Place};

const LIMITS: PeerLimits = PeerLimits { all: HANDSHAKES_MAX, of_network: HANDSHAKES_OF_ADDRESS_MAX };

#[derive(Default)]
pub(super) struct Admission(Peers);

pub(super) enum Decision {
    /// Go on; it counts until its place is dropped.
    Admit(Place),
    /// Let the address show that it receives what it is sent.
    Retry,
    Refuse,
}

impl Admission {
    pub(super) fn decide(&self, address: IpAddr, is_validated: bool) -> Decision {
        match self.0.take(address, LIMITS) {
            None => Decision::Refuse,
            Some(place) if place.before >= RETRY_ABOVE && !is_validated => Decision::Retry,
            Some(place) => Decision::Admit(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_itself_under_load_and_has_a_limit_of_its_own() {
        let admission = Admission::default();
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
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
        assert!(admission.0.is_empty());
    }
}
