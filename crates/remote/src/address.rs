//! Which network addresses we connect to.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Address ranges that belong to machines near us and to nobody on the Internet: another server must not make us speak to them.
pub const INTERNAL_NETWORKS: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// Denied networks, and the exceptions from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// No connection goes there,
    pub denied: Vec<IpNet>,
    /// but here it does.
    pub allowed: Vec<IpNet>,
}

impl AddressPolicy {
    /// All internal networks denied, without exceptions.
    pub fn internet() -> Self {
        Self { denied: INTERNAL_NETWORKS.iter().filter_map(|network| network.parse().ok()).collect(), allowed: Vec::new() }
    }

    /// Whether a connection to this address may be made.
    pub fn permits(&self, address: IpAddr) -> bool {
        // An IPv4 address in IPv6 clothes is the IPv4 address.
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        within(&self.allowed) || !(within(&self.denied) || hidden_ipv4(address).is_some_and(|inner| within_v4(&self.denied, inner)))
    }
}

/// The IPv4 address an IPv4-compatible IPv6 address (`::a.b.c.d`) stands for.
fn hidden_ipv4(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    (v6.segments().iter().take(6).all(|&segment| segment == 0) && v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED)
        .then(|| v6.to_ipv4())
        .flatten()
        .map(IpAddr::V4)
}

fn within_v4(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_addresses_are_denied_in_every_spelling() {
        let policy = AddressPolicy::internet();
        assert_eq!(policy.denied.len(), INTERNAL_NETWORKS.len());
        for denied in [
            "127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1",
            "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fd00::1", "255.255.255.255",
        ] {
            assert!(!policy.permits(denied.parse().unwrap()), "{denied}");
        }
        for permitted in ["1.1.1.1", "2a00:1450::1", "::ffff:1.1.1.1"] {
            assert!(policy.permits(permitted.parse().unwrap()), "{permitted}");
        }
    }

    #[test]
    fn an_exception_opens_what_is_denied() {
        let policy = AddressPolicy { allowed: vec!["10.5.0.0/16".parse().unwrap()], ..AddressPolicy::internet() };
        assert!(policy.permits("10.5.0.1".parse().unwrap()));
        assert!(!policy.permits("10.6.0.1".parse().unwrap()));
    }
}
