//! Pictures that move, made smaller; and pictures that are made to harm.

use std::io::Cursor;

use futures_util::StreamExt;
use image::{
    AnimationDecoder, Delay, Frame, RgbaImage,
    codecs::gif::{GifDecoder, GifEncoder},
};
use samtal_media::{MediaError, Method, Options, Thumbnail, Wanted};

use crate::{Bench, each, png};

fn gif(width: u32, height: u32, frames: u8) -> Vec<u8> {
    let mut out = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut out, 30);
        for number in 0..frames {
            let color = image::Rgba([number.wrapping_mul(40), 100, 200, 255]);
            let picture = RgbaImage::from_pixel(width, height, color);
            let delay = Delay::from_numer_denom_ms(u32::from(number) * 10 + 50, 1);
            encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
        }
    }
    out
}

async fn made(bench: &Bench, source: &[u8], animated: bool) -> Result<Option<(String, Vec<u8>)>, MediaError> {
    let id = bench.upload("alice", source).await?;
    let entry = bench.entry(&id).await.unwrap();
    let wanted = Wanted { width: 32, height: 32, method: Method::Scale, animated };
    match bench.media.thumbnail(&entry, wanted).await? {
        Thumbnail::Original => Ok(None),
        Thumbnail::Smaller { content_type, mut body, .. } => {
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                bytes.extend_from_slice(&chunk.unwrap());
            }
            Ok(Some((content_type, bytes)))
        }
    }
}

#[tokio::test]
async fn a_picture_that_moves_goes_on_moving_when_that_is_asked_for() {
    each(Options::default(), |bench| async move {
        let source = gif(64, 32, 4);
        let (content_type, bytes) = made(&bench, &source, true).await.unwrap().unwrap();
        assert_eq!(content_type, "image/gif");
        let frames = GifDecoder::new(Cursor::new(bytes)).unwrap().into_frames().collect_frames().unwrap();
        let delays: Vec<u32> = frames.iter().map(|frame| frame.delay().numer_denom_ms().0).collect();
        assert_eq!((frames.len(), delays), (4, vec![50, 60, 70, 80]));
        assert_eq!(frames[0].buffer().dimensions(), (32, 16));
        let (content_type, bytes) = made(&bench, &source, false).await.unwrap().unwrap();
        assert_eq!(content_type, "image/png", "the other stands still, and is kept beside it");
        assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 32);
        // What does not move is made as ever.
        let (content_type, _) = made(&bench, &png(200, 100), true).await.unwrap().unwrap();
        assert_eq!(content_type, "image/png");
    })
    .await;
}

#[tokio::test]
async fn pictures_made_to_harm_are_refused_before_they_are_unpacked() {
    each(Options { pixels_max: 1_000_000, ..Options::default() }, |bench| async move {
        // A few bytes that say they are a picture of 30,000 by 30,000.
        let mut bomb = png(1, 1);
        bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
        let mut cut = gif(100, 100, 2);
        cut.truncate(cut.len() / 2);
        for (what, source) in [("bomb", bomb), ("large", png(1_001, 1_000)), ("svg", b"<svg/>".to_vec())] {
            for animated in [false, true] {
                let refused = made(&bench, &source, animated).await;
                let expected = matches!(refused, Err(MediaError::PictureTooLarge | MediaError::NoPicture(_)));
                assert!(expected, "{what}: {refused:?}");
            }
        }
        // One that breaks off is made of what there is, or refused; it does no harm.
        let _ = made(&bench, &cut, true).await;
    })
    .await;
}

#[tokio::test]
async fn smaller_pictures_go_when_there_are_too_many_the_longest_unused_first() {
    each(Options { thumbnail_bytes_max: 150, ..Options::default() }, |bench| async move {
        let mut ids = Vec::new();
        for side in [100, 110, 120] {
            let id = bench.upload("alice", &png(side, side)).await.unwrap();
            bench.thumbnail(&id, 32, 32, Method::Scale).await.unwrap();
            bench.clock.advance(std::time::Duration::from_secs(60));
            ids.push(id);
        }
        assert_eq!(bench.files(), 6);
        bench.clock.advance(std::time::Duration::from_secs(2 * 24 * 3600));
        // The first is asked for again.
        bench.thumbnail(&ids[0], 32, 32, Method::Scale).await.unwrap();
        bench.media.clean().await.unwrap();
        let left = bench.files();
        assert!((3..6).contains(&left), "{left}: the uploads stay");
        bench.thumbnail(&ids[1], 32, 32, Method::Scale).await.unwrap();
        assert_eq!(bench.files(), left + 1, "made anew");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_keeps_so_much_takes_no_more() {
    each(Options { total_bytes_max: Some(100), ..Options::default() }, |bench| async move {
        bench.upload("alice", &[1; 90]).await.unwrap();
        bench.upload("alice", &[2; 60]).await.unwrap();
        let refused = bench.upload("bob", &[3; 1]).await;
        assert!(matches!(refused, Err(MediaError::ServerFull { bytes_max: 100 })), "{refused:?}");
    })
    .await;
}
