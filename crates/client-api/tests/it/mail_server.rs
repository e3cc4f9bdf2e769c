//! A scripted mail server.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
};

/// Starts one that takes everything, and gives each mail: to whom, and its header and text, decoded.
pub(crate) async fn start() -> (samtal_ops::Mail, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sender, mails) = channel(16);
    let mail = samtal_ops::Mail {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        tls: samtal_ops::MailTls::None,
        credentials: None,
        from: "Samtal <samtal@samtal.test>".into(),
        notifications: None,
    };
    #[expect(clippy::disallowed_methods, reason = "a server beside the house")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = take_mail(stream, &sender).await;
        }
    });
    (mail, mails)
}

async fn take_mail(stream: TcpStream, mails: &Sender<(String, String)>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail.test\r\n").await?;
    let (mut to, mut text, mut in_text) = (String::new(), String::new(), false);
    while let Some(line) = lines.next_line().await? {
        if in_text {
            if line == "." {
                in_text = false;
                let _ = mails.send((to.clone(), decoded(&std::mem::take(&mut text)))).await;
                write.write_all(b"250 taken\r\n").await?;
            } else {
                text.push_str(&line);
                text.push('\n');
            }
            continue;
        }
        let answer: &[u8] = match line.get(..4).unwrap_or_default() {
            "EHLO" => b"250 mail.test\r\n",
            "DATA" => {
                in_text = true;
                b"354 go on\r\n"
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            "RCPT" => {
                to = line.trim_start_matches("RCPT TO:<").trim_end_matches('>').to_owned();
                b"250 fine\r\n"
            }
            _ => b"250 fine\r\n",
        };
        write.write_all(answer).await?;
    }
    Ok(())
}

/// Quoted-printable, where it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let joined = text.replace("=\n", "");
    let mut rest = joined.as_bytes().iter();
    while let Some(byte) = rest.next() {
        let hex: Option<u8> = (*byte == b'=')
            .then(|| rest.as_slice().get(..2))
            .flatten()
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex {
            Some(decoded) => {
                bytes.push(decoded);
                rest.nth(1);
            }
            None => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
