//! Servers in one process that federate through the router: the same bytes as over the Internet, by function call.

#![expect(unreachable_pub, reason = "nothing outside sees a test binary")]

mod world;

mod authentication;
mod device;
mod media;
mod membership;
mod outage;
mod partial;
mod sending;
mod several_nodes;
mod sticky;
