//! The Client-Server API through its router, on both database engines.

#![expect(unreachable_pub, reason = "nothing outside sees a test binary")]

mod harness;

mod account;
mod account_data;
mod appservice;
mod bad_input;
mod clock;
mod counts;
mod delayed;
mod device;
mod full_disk;
mod invite_filter;
mod keys;
mod large_room;
mod login;
mod mail;
mod mail_pusher;
mod mail_server;
mod media;
mod notes;
mod old_clients;
mod profile;
mod push_rules;
mod pusher;
mod register;
mod relation_filter;
mod room;
mod routes;
mod search;
mod sliding_sync;
mod sticky;
mod sync;
mod sync_model;
mod threads;
mod user_directory;
