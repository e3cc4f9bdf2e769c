//! Making pictures smaller: pure, and bounded before anything is decoded.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, codecs::jpeg::JpegEncoder, imageops::FilterType,
};

use crate::{MediaError, thumbnail::Method};

/// Quality of smaller pictures without transparency.
const JPEG_QUALITY: u8 = 80;
/// Longest side of a picture that is decoded.
const SIDE_MAX: u32 = 32_768;

/// A picture made smaller.
#[derive(Debug)]
pub(crate) struct Smaller {
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Width and height, as the file's beginning says.
pub(crate) fn size(source: &[u8]) -> Option<(u32, u32)> {
    ImageReader::new(Cursor::new(source)).with_guessed_format().ok()?.into_dimensions().ok()
}

/// The picture scaled into, or cropped to, this size; nothing when it is no larger than that already.
pub(crate) fn smaller(
    source: &[u8],
    (width, height): (u32, u32),
    method: Method,
    pixels_max: u64,
) -> Result<Option<Smaller>, MediaError> {
    let bad = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => MediaError::PictureTooLarge,
        other => MediaError::NoPicture(other.to_string()),
    };
    let reader = || ImageReader::new(Cursor::new(source)).with_guessed_format();
    let mut reader = reader().map_err(|error| MediaError::NoPicture(error.to_string()))?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP)) {
        return Err(MediaError::NoPicture("not a PNG, JPEG, GIF or WebP".to_owned()));
    }
    let drawn = matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Gif));
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(pixels_max.saturating_mul(8));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let (source_width, source_height) = decoder.dimensions();
    if u64::from(source_width) * u64::from(source_height) > pixels_max {
        return Err(MediaError::PictureTooLarge);
    }
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    if source_width <= width && source_height <= height {
        return Ok(None);
    }
    let mut picture = DynamicImage::from_decoder(decoder).map_err(bad)?;
    picture.apply_orientation(orientation);
    let picture = match method {
        Method::Scale => picture.resize(width, height, FilterType::Triangle),
        Method::Crop => {
            picture.resize_to_fill(width.min(picture.width()), height.min(picture.height()), FilterType::Triangle)
        }
    };
    encode(&picture, drawn).map(Some)
}

/// Drawings and what one can see through stay without loss, photographs become small.
fn encode(picture: &DynamicImage, drawn: bool) -> Result<Smaller, MediaError> {
    let mut bytes = Cursor::new(Vec::new());
    let (content_type, result) = if picture.color().has_alpha() {
        ("image/png", picture.to_rgba8().write_to(&mut bytes, ImageFormat::Png))
    } else if drawn {
        ("image/png", picture.to_rgb8().write_to(&mut bytes, ImageFormat::Png))
    } else {
        ("image/jpeg", picture.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)))
    };
    result.map_err(|error| MediaError::NoPicture(error.to_string()))?;
    Ok(Smaller { content_type, bytes: bytes.into_inner() })
}
