//! Who may start a handshake.
//!
//! Owns: what a handshake is answered. Leaves to others: counting (`crate::peers`), connections (`super`).

use std::net::IpAddr;

use super::{
    HANDSHAKES_MAX, HANDSHAKES_OF_ADDRESS_MAX, RETRY_ABOVE, STRANGERS_MAX, STRANGERS_OF_ADDRESS_MAX,
};
use crate::peers::{PeerLimits, Peers, Place};

const HANDSHAKES: PeerLimits = PeerLimits { all: HANDSHAKES_MAX, of_network: HANDSHAKES_OF_ADDRESS_MAX };
const STRANGERS: PeerLimits = PeerLimits { all: STRANGERS_MAX, of_network: STRANGERS_OF_ADDRESS_MAX };

#[derive(Default)]
pub(super) struct Admission {
    handshakes: Peers,
    strangers: Peers,
}

pub(super) enum Decision {
    /// Go on.
    Admit {
        /// Counts until the handshake ends.
        handshake: Place,
        /// Counts until a token is shown.
        stranger: Place,
    },
    /// Let the address show that it receives what it is sent.
    Retry,
    Refuse,
}

impl Admission {
    pub(super) fn decide(&self, address: IpAddr, is_validated: bool) -> Decision {
        let Some(handshake) = self.handshakes.take(address, HANDSHAKES) else { return Decision::Refuse };
        if handshake.before >= RETRY_ABOVE && !is_validated {
            return Decision::Retry;
        }
        match self.strangers.take(address, STRANGERS) {
            Some(stranger) => Decision::Admit { handshake, stranger },
            None => Decision::Refuse,
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
            Decision::Admit { handshake, stranger } => {
                held.push((handshake, stranger));
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
        assert!(matches!(admission.decide(one, false), Decision::Admit { .. }));
        assert!(admission.handshakes.is_empty() && admission.strangers.is_empty());
    }

    /// One address took all connections with handshakes that it finished, and never said a word.
    #[test]
    fn an_address_that_shows_no_tokens_leaves_connections_to_others() {
        let admission = Admission::default();
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let stranger = |address: IpAddr| match admission.decide(address, true) {
            Decision::Admit { stranger, .. } => Some(stranger),
            Decision::Retry | Decision::Refuse => None,
        };
        let mut silent: Vec<Place> = std::iter::from_fn(|| stranger(one)).collect();
        assert_eq!(silent.len(), STRANGERS_OF_ADDRESS_MAX);
        assert!(stranger(two).is_some());
        assert!(admission.handshakes.is_empty(), "their handshakes have ended");
        silent.pop();
        assert!(stranger(one).is_some());
    }
}
