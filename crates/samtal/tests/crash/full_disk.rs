//! A disk that is full: the client is told, reading goes on, and once there is room again everything does.
//!
//! The disk is a small `tmpfs` in a mount namespace of its own, which Linux gives to anyone (if it is configured to).

use std::{path::PathBuf, process::Stdio};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    server::{Api, Failure, Home, escape},
    text,
};

/// A mount namespace with a small disk, there until it is dropped.
struct SmallDisk {
    holder: Child,
    /// The disk as seen from outside.
    path: PathBuf,
}

impl SmallDisk {
    /// Puts one under the server's data directory.
    async fn under(home: &mut Home) -> Option<Self> {
        let script = "mount -t tmpfs -o size=8m none \"$0\" && echo mounted && exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(home.data())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(holder.stdout.take()?).lines();
        lines.next_line().await.ok().flatten()?;
        let pid = holder.id()?;
        let enter = ["nsenter", "--user", "--mount", "--preserve-credentials", "--target"];
        home.start_through(enter.into_iter().map(str::to_owned).chain([pid.to_string()]).collect());
        let path = PathBuf::from(format!("/proc/{pid}/root")).join(home.data().strip_prefix("/").unwrap());
        Some(Self { holder, path })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Leaves no byte free.
    fn fill(&self) {
        // The write that does not fit is the point.
        let _ = std::fs::write(self.filler(), vec![0; 16 << 20]);
    }
}

async fn send(api: &Api, token: &str, room: &str, said: &str) -> Result<String, Failure> {
    let path = format!("/rooms/{}/send/m.room.message/{said}", escape(room));
    let body = json!({ "msgtype": "m.text", "body": format!("{said} {}", "x".repeat(2_000)) });
    Ok(text(&api.call(Method::PUT, &path, token, Some(body)).await?, "event_id"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_loses_nothing() {
    let mut home = Home::new(None);
    let Some(disk) = SmallDisk::under(&mut home).await else {
        println!("skipped: no mount namespaces here");
        return;
    };
    let server = home.start().await;
    let api = server.api();
    let body = json!({
        "username": "user", "password": "a long enough pass phrase", "auth": { "type": "m.login.dummy" },
    });
    let token = text(&api.call(Method::POST, "/register", "", Some(body)).await.unwrap(), "access_token");
    let body = json!({ "preset": "public_chat" });
    let room = text(&api.call(Method::POST, "/createRoom", &token, Some(body)).await.unwrap(), "room_id");
    let mut acknowledged = vec![send(&api, &token, &room, "before").await.unwrap()];

    disk.fill();
    let mut refused = None;
    for count in 0..2_000 {
        match send(&api, &token, &room, &format!("full{count}")).await {
            Ok(event_id) => acknowledged.push(event_id),
            Err(failure) => {
                refused = Some(failure);
                break;
            }
        }
    }
    let Some(Failure::Refused(status, answer)) = refused else { panic!("{refused:?}") };
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert_eq!(answer["errcode"], "M_UNKNOWN");
    check(&api, &token, &room, &acknowledged).await;

    std::fs::remove_file(disk.filler()).unwrap();
    for count in 0..20 {
        acknowledged.push(send(&api, &token, &room, &format!("after{count}")).await.unwrap());
    }
    check(&api, &token, &room, &acknowledged).await;

    // Killed while the disk is full, it comes back, too.
    disk.fill();
    while let Ok(event_id) = send(&api, &token, &room, &format!("again{}", acknowledged.len())).await {
        acknowledged.push(event_id);
    }
    server.kill().await;
    std::fs::remove_file(disk.filler()).unwrap();
    let server = home.start().await;
    check(&server.api(), &token, &room, &acknowledged).await;
    send(&server.api(), &token, &room, "last").await.unwrap();
    server.kill().await;
    drop(disk.holder);
}

async fn check(api: &Api, token: &str, room: &str, acknowledged: &[String]) {
    for event_id in acknowledged {
        let path = format!("/rooms/{}/event/{}", escape(room), escape(event_id));
        api.call(Method::GET, &path, token, None).await.unwrap();
    }
}
