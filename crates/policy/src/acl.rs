//! A room's server access control list.

use ruma::ServerName;
use serde_json::Value;

use crate::Pattern;

/// The content of an `m.room.server_acl` event, read leniently: whoever wrote it, it is applied.
///
/// It judges the *requesting* server, never local users. [Server ACLs, Matrix 1.19](https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    allow_ip_literals: bool,
}

impl Acl {
    /// Reads the content of the event. What has the wrong type counts as absent: no `allow` means nobody.
    pub fn from_content(content: &Value) -> Self {
        let list = |name: &str| {
            let entries = content.get(name).and_then(Value::as_array);
            entries.into_iter().flatten().filter_map(Value::as_str).map(Pattern::new).collect()
        };
        Self {
            allow: list("allow"),
            deny: list("deny"),
            allow_ip_literals: content.get("allow_ip_literals").and_then(Value::as_bool).unwrap_or(true),
        }
    }

    /// Whether the list lets this server take part, in the order the specification gives: IP literal, deny, allow, else no.
    pub fn permits(&self, server: &ServerName) -> bool {
        if !self.allow_ip_literals && server.is_ip_literal() {
            return false;
        }
        !self.deny.iter().any(|pattern| pattern.matches(server))
            && self.allow.iter().any(|pattern| pattern.matches(server))
    }
}

impl Acl {
    /// As [`Self::permits`], but the name is looked at with its port: for a warning to those who may mean somebody else on the same host.
    pub fn permits_with_port(&self, server: &ServerName) -> bool {
        let names = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches_text(server.as_str()));
        (self.allow_ip_literals || !server.is_ip_literal()) && !names(&self.deny) && names(&self.allow)
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;

    #[test]
    fn note_34_a_server_acl_is_judged_in_the_order_of_the_specification() {
        let acl = Acl::from_content(
            &json!({ "allow": ["*"], "deny": ["*.EVIL.example", "evil.example"], "allow_ip_literals": false }),
        );
        assert!(acl.permits(server_name!("good.example")));
        assert!(!acl.permits(server_name!("evil.example:8448")), "the port is not looked at");
        assert!(!acl.permits(server_name!("Sub.Evil.Example")), "letters compare without case");
        assert!(!acl.permits(server_name!("10.0.0.1:8448")));
        assert!(!acl.permits(server_name!("[::1]")));
    }

    #[test]
    fn note_34_a_missing_allow_list_is_nobody() {
        assert!(!Acl::from_content(&json!({})).permits(server_name!("good.example")));
        assert!(!Acl::from_content(&json!({ "allow": "*" })).permits(server_name!("good.example")));
        assert!(Acl::from_content(&json!({ "allow": ["*", 7] })).permits(server_name!("1.2.3.4")));
    }
}
