//! Making pictures that move smaller: GIF, APNG and WebP become a GIF. Bounded in frames and in pixels of all of them
//! together; what has more is shown standing still.

use std::io::Cursor;

use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageFormat, ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        png::PngDecoder,
        webp::WebPDecoder,
    },
    imageops::FilterType,
};

use crate::{picture::Smaller, thumbnail::Method};

/// Most frames.
const FRAMES_MAX: usize = 300;
/// Most pixels of all frames together, as they come.
const SOURCE_PIXELS_MAX: u64 = 200_000_000;
/// Most pixels of all frames together, made smaller: writing them takes time.
const RESULT_PIXELS_MAX: u64 = 12_000_000;

/// The picture scaled into, or cropped to, this size; nothing when it does not move, or cannot be made smaller as it moves.
pub(crate) fn smaller(source: &[u8], (width, height): (u32, u32), method: Method, pixels_max: u64) -> Option<Smaller> {
    let (source_width, source_height) = crate::picture::size(source)?;
    let pixels = u64::from(source_width) * u64::from(source_height);
    if pixels > pixels_max || (source_width <= width && source_height <= height) {
        return None;
    }
    let mut made: Vec<Frame> = Vec::new();
    let mut result_pixels = 0;
    for (count, frame) in frames(source)?.enumerate() {
        if count >= FRAMES_MAX || pixels.saturating_mul(count as u64 + 1) > SOURCE_PIXELS_MAX {
            return None;
        }
        let frame = frame.ok()?;
        let delay = frame.delay();
        let picture = DynamicImage::ImageRgba8(frame.into_buffer());
        let picture = match method {
            Method::Scale => picture.resize(width, height, FilterType::Triangle),
            Method::Crop => {
                picture.resize_to_fill(width.min(picture.width()), height.min(picture.height()), FilterType::Triangle)
            }
        };
        result_pixels += u64::from(picture.width()) * u64::from(picture.height());
        if result_pixels > RESULT_PIXELS_MAX {
            return None;
        }
        made.push(Frame::from_parts(picture.into_rgba8(), 0, 0, delay));
    }
    if made.len() < 2 {
        return None;
    }
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        encoder.encode_frames(made).ok()?;
    }
    Some(Smaller { content_type: "image/gif", bytes })
}

/// The frames of a file that may have several.
fn frames(source: &[u8]) -> Option<Frames<'_>> {
    use image::ImageDecoder;
    let mut limits = Limits::default();
    limits.max_alloc = Some(SOURCE_PIXELS_MAX);
    match ImageReader::new(Cursor::new(source)).with_guessed_format().ok()?.format()? {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(Cursor::new(source)).ok()?;
            decoder.set_limits(limits).ok()?;
            Some(decoder.into_frames())
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(Cursor::new(source), limits).ok()?;
            decoder.is_apng().ok()?.then(|| decoder.apng().ok())?.map(AnimationDecoder::into_frames)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(Cursor::new(source)).ok()?;
            decoder.has_animation().then(|| decoder.into_frames())
        }
        _ => None,
    }
}
