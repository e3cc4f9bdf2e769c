//! Which addresses may be connected to.

use std::net::{IpAddr, Ipv6Addr};

/// A range of addresses: all whose first `prefix_bits` bits are those of `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// How many leading bits count (at most 32 or 128).
    pub prefix_bits: u8,
}

impl Network {
    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => same_prefix(
                u128::from(network.to_bits()) << 96,
                u128::from(address.to_bits()) << 96,
                self.prefix_bits.min(32),
            ),
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_prefix(network.to_bits(), address.to_bits(), self.prefix_bits.min(128))
            }
            _ => false,
        }
    }
}

fn same_prefix(a: u128, b: u128, bits: u8) -> bool {
    match 128_u32.checked_sub(u32::from(bits)) {
        Some(128) => true,
        Some(shift) => (a ^ b) >> shift == 0,
        None => a == b,
    }
}

/// The networks that are never connected to, whatever a name resolves to.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    denied: Vec<Network>,
}

impl AddressPolicy {
    /// Denies these networks. An IPv6 address that stands for an IPv4 one (mapped, compatible, NAT64, 6to4) is judged as
    /// that one too.
    pub fn denying(denied: Vec<Network>) -> AddressPolicy {
        AddressPolicy { denied }
    }

    /// Whether a connection to the address is allowed.
    pub fn allows(&self, address: IpAddr) -> bool {
        let denied = |address| self.denied.iter().any(|network| network.contains(address));
        match address {
            IpAddr::V4(_) => !denied(address),
            IpAddr::V6(six) => !denied(address) && embedded(six).is_none_or(|four| !denied(IpAddr::V4(four))),
        }
    }
}

/// The IPv4 address in an IPv6 one, where a translator or a kernel would use it.
fn embedded(six: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = six.segments();
    let four = |high: u16, low: u16| std::net::Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        // ::1 and :: are no IPv4 addresses
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(four(g, h)),
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(four(g, h)),
        [0x2002, high, low, ..] => Some(four(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(networks: &[(&str, u8)]) -> AddressPolicy {
        AddressPolicy::denying(
            networks
                .iter()
                .map(|(address, bits)| Network { address: address.parse().unwrap(), prefix_bits: *bits })
                .collect(),
        )
    }

    #[test]
    fn a_denied_network_is_denied_in_every_disguise() {
        let policy = policy(&[("10.0.0.0", 8), ("127.0.0.0", 8), ("::1", 128), ("fc00::", 7)]);
        for denied in [
            "10.1.2.3",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:a00:1::",
            "::10.0.0.1",
        ] {
            assert!(!policy.allows(denied.parse().unwrap()), "{denied}");
        }
        for allowed in ["11.0.0.1", "9.255.255.255", "2001:db8::1", "::ffff:11.0.0.1", "::2"] {
            assert!(policy.allows(allowed.parse().unwrap()), "{allowed}");
        }
    }

    #[test]
    fn prefixes_of_nothing_and_everything_work() {
        assert!(!policy(&[("0.0.0.0", 0)]).allows("1.2.3.4".parse().unwrap()));
        assert!(policy(&[("0.0.0.0", 0)]).allows("1::".parse().unwrap()));
        assert!(!policy(&[("1.2.3.4", 32)]).allows("1.2.3.4".parse().unwrap()));
    }
}
