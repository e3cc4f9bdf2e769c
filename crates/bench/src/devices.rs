//! What phones need: smaller pictures, and to be woken.

use std::{collections::HashSet, io::Cursor, time::Duration};

use futures_util::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use http::Method;
use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    client::{Failure, Server},
    measure::{Moment, Process, Spread, Stopwatch},
    scenario::{TEXT, settled},
};

/// A picture as phones make them: 12 million pixels, with something to see everywhere.
const WIDTH: u32 = 4_000;
const HEIGHT: u32 = 3_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn photo(number: usize) -> Result<Vec<u8>, Failure> {
    let mut pixels = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
    let mut noise = number as u32;
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = noise >> 28;
            let shade = (x / 16 + y / 12 + (x / 250 * (y / 250)) % 7 * 9 + grain) % 256;
            pixels.extend([shade, 255 - shade, (shade * 3) % 256].map(|part| u8::try_from(part).unwrap_or(0)));
        }
    }
    let mut jpeg = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut jpeg, 85).write_image(&pixels, WIDTH, HEIGHT, ExtendedColorType::Rgb8)?;
    Ok(jpeg.into_inner())
}

/// Uploads of `count` photographs, and the smaller pictures of each: made, and then given out again.
pub(crate) async fn thumbnails(server: &Server, process: &Process, count: usize) -> Result<(), Failure> {
    let user = server.register("photographer", 0).await?;
    let mut uploads = Vec::new();
    let mut made: Vec<Vec<Duration>> = vec![Vec::new(); 3];
    let mut again = Vec::new();
    let (mut bytes, mut cpu) = (0, Duration::ZERO);
    for number in 0..count {
        let photo = photo(number)?;
        bytes = photo.len();
        let watch = Stopwatch::start();
        let mxc = user.upload("image/jpeg", &photo).await?;
        uploads.push(watch.elapsed());
        let file = mxc.strip_prefix("mxc://").ok_or("no mxc address")?;
        let before = process.cpu();
        for ((width, height, method), times) in
            [(32, 32, "crop"), (320, 240, "scale"), (800, 600, "scale")].into_iter().zip(&mut made)
        {
            let path =
                format!("/_matrix/client/v1/media/thumbnail/{file}?width={width}&height={height}&method={method}");
            let watch = Stopwatch::start();
            user.server.raw(Method::GET, &path, Some(&user.token), None).await?;
            times.push(watch.elapsed());
            let watch = Stopwatch::start();
            user.server.raw(Method::GET, &path, Some(&user.token), None).await?;
            again.push(watch.elapsed());
        }
        cpu += process.cpu() - before;
    }
    let cpu = cpu.as_secs_f64() * 1_000.0 / (count * 3) as f64;
    println!("photographs of {WIDTH} by {HEIGHT} ({bytes} bytes), uploaded: {}", Spread::new(uploads));
    for (times, size) in made.into_iter().zip(["32 by 32", "320 by 240", "800 by 600"]) {
        println!("  first thumbnail of {size}: {}", Spread::new(times));
    }
    println!("  each again: {}; {cpu:.0} ms of CPU for one, made and given out again", Spread::new(again));
    Ok(())
}

/// Takes in notifications until it is dropped: of each its pushkey, and when it came.
async fn gateway(listener: TcpListener, told: mpsc::Sender<(String, Moment)>) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => open.push(notifications(stream, told.clone())),
                Err(_) => return,
            },
            _ = open.next(), if !open.is_empty() => {}
        }
    }
}

async fn notifications(stream: TcpStream, told: mpsc::Sender<(String, Moment)>) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let arrived = Moment::now();
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"rejected\":[]}";
        stream.write_all(answer.as_bytes()).await?;
        let body: Value = serde_json::from_slice(&body)?;
        let key = body.pointer("/notification/devices/0/pushkey").and_then(Value::as_str).unwrap_or_default();
        told.send((key.to_owned(), arrived)).await?;
    }
}

/// One message to `members` who all have a phone at the same gateway: from the request to the last notification.
pub(crate) async fn push(server: &Server, process: &Process, members: usize, rounds: usize) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/_matrix/push/v1/notify", listener.local_addr()?);
    let (tell, mut told) = mpsc::channel::<(String, Moment)>(members.max(16));
    let measure = async {
        let users = server.register_all("phone", members + 1).await?;
        let (sender, members) = users.split_first().ok_or("no users")?;
        let room = sender.create_room().await?;
        try_join_all(members.iter().enumerate().map(|(number, member)| {
            let (room, url) = (&room, &url);
            async move {
                member.join(room).await?;
                let pusher = json!({
                    "kind": "http", "app_id": "bench", "pushkey": format!("phone-{number}"), "lang": "en",
                    "app_display_name": "Bench", "device_display_name": "Phone",
                    "data": { "url": url, "format": "event_id_only" },
                });
                member.call(Method::POST, "/_matrix/client/v3/pushers/set", Some(pusher)).await
            }
        }))
        .await?;
        settled(process).await;
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let cpu = process.cpu();
        for round in 0..rounds {
            let begun = Moment::now();
            sender.send(&room, &format!("p{round}"), TEXT).await?;
            let mut heard = HashSet::new();
            let (mut soonest, mut latest) = (None, Duration::ZERO);
            while heard.len() < members.len() {
                let heard_of = tokio::time::timeout(PATIENCE, told.recv()).await?;
                let (key, arrived) = heard_of.ok_or("the gateway ended")?;
                heard.insert(key);
                latest = arrived.since(&begun);
                soonest.get_or_insert(latest);
            }
            first.extend(soonest);
            last.push(latest);
        }
        settled(process).await;
        let cpu = (process.cpu() - cpu).as_secs_f64() * 1_000.0 / (rounds * members.len()) as f64;
        println!("push to the first of {} phones: {}", members.len(), Spread::new(first));
        println!("  to the last: {}; {cpu:.3} ms of CPU for each", Spread::new(last));
        Ok(())
    };
    tokio::select! {
        measured = measure => measured,
        () = gateway(listener, tell) => Err("the gateway ended".into()),
    }
}
