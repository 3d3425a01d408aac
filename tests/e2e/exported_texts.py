"""ONNX text of the kinds of models that exporters write; weights and inputs are in `exported_kinds`."""

from __future__ import annotations

DETECTOR = """detector (float[3, h, w] image) => (float[n, 4] boxes, float[n] scores, int64[n] labels) {
  image_shape = Shape(image)
  sides = Slice(image_shape, one, three)
  sides_f = Cast <to = 1> (sides)
  shortest = ReduceMin <keepdims = 1> (sides_f)
  scale = Div(side, shortest)
  scaled = Mul(sides_f, scale)
  floors = Floor(scaled)
  new_sides = Cast <to = 7> (floors)
  new_shape = Concat <axis = 0> (one_three, new_sides)
  batch = Unsqueeze(image, zero)
  resized = Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (batch, "", "", new_shape)
  f1 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (resized, w1)
  r1 = Relu(f1)
  f2 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (r1, w2)
  r2 = Relu(f2)
  grid_shape = Shape(r2)
  height = Gather(grid_shape, at_2)
  width = Gather(grid_shape, at_3)
  ys = Range(at_0, height, at_1)
  xs = Range(at_0, width, at_1)
  column = Reshape(ys, minus_one_one)
  grid = Slice(grid_shape, two, four)
  y_grid = Expand(column, grid)
  x_grid = Expand(xs, grid)
  y_flat = Reshape(y_grid, minus_one_one)
  x_flat = Reshape(x_grid, minus_one_one)
  corners = Concat <axis = 1> (x_flat, y_flat, x_flat, y_flat)
  corners_f = Cast <to = 1> (corners)
  spaced = Mul(corners_f, stride)
  anchors = Add(spaced, anchor)
  d1 = Conv(r2, w_deltas)
  d2 = Transpose <perm = [0, 2, 3, 1]> (d1)
  deltas = Reshape(d2, minus_one_four)
  s1 = Conv(r2, w_scores)
  s2 = Transpose <perm = [0, 2, 3, 1]> (s1)
  s3 = Reshape(s2, minus_one_three)
  each = Softmax <axis = 1> (s3)
  all_boxes = Add(anchors, deltas)
  best = ReduceMax <axes = [1], keepdims = 0> (each)
  class_of = ArgMax <axis = 1, keepdims = 0> (each)
  count = Shape(best)
  most = Min(count, twenty)
  top, order = TopK(best, most)
  top_boxes = Gather(all_boxes, order)
  top_labels = Gather(class_of, order)
  offset = Cast <to = 1> (top_labels)
  far = Mul(offset, hundred)
  far_column = Unsqueeze(far, one)
  apart = Add(top_boxes, far_column)
  boxes_3d = Unsqueeze(apart, zero)
  scores_3d = Unsqueeze(top, zero_one)
  kept = NonMaxSuppression(boxes_3d, scores_3d, thirty, overlap, least)
  kept_column = Gather <axis = 1> (kept, two)
  kept_index = Squeeze(kept_column, one)
  net_boxes = Gather(top_boxes, kept_index)
  boxes = Div(net_boxes, scale)
  scores = Gather(top, kept_index)
  labels = Gather(top_labels, kept_index)
}"""

REGIONS = """regions (float[1, 3, h, w] image, float[n, 4] boxes) => (float[n, 4] scores, float[n, 3, 8, 8] masks) {
  f = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1)
  features = Relu(f)
  boxes_shape = Shape(boxes)
  count = Slice(boxes_shape, zero, one)
  picture_of = ConstantOfShape <value = int64[1] {0}> (count)
  pooled = RoiAlign <output_height = 4, output_width = 4, sampling_ratio = 2, spatial_scale = 0.5> (features, boxes, picture_of)
  flat = Flatten(pooled)
  h = MatMul(flat, w2)
  scores = Softmax(h)
  wide = ConvTranspose <strides = [2, 2], kernel_shape = [2, 2]> (pooled, w3)
  masks = Sigmoid(wide)
}"""

PIXELS = """pixels (uint8[b, h, w, 3] pixels) => (float[b, 2] best, int64[b, 2] classes) {
  first = Transpose <perm = [0, 3, 1, 2]> (pixels)
  plain = Cast <to = 1> (first)
  share = Div(plain, most)
  shape = Shape(share)
  kept = Slice(shape, zero, two)
  wanted = Concat <axis = 0> (kept, sixteen)
  small = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (share, "", "", wanted)
  centred = Sub(small, mean)
  normal = Div(centred, deviation)
  f = Conv <strides = [2, 2]> (normal, w1)
  r = Relu(f)
  pooled = GlobalAveragePool(r)
  flat = Flatten(pooled)
  h = MatMul(flat, w2)
  all = Softmax(h)
  best, classes = TopK(all, two)
}"""

ATTENTION = """
  {p}q1 = MatMul({q}, wq)
  {p}k1 = MatMul({k}, wk)
  {p}v1 = MatMul({k}, wv)
  {p}q2 = Reshape({p}q1, heads)
  {p}k2 = Reshape({p}k1, heads)
  {p}v2 = Reshape({p}v1, heads)
  {p}q = Transpose <perm = [0, 2, 1, 3]> ({p}q2)
  {p}k = Transpose <perm = [0, 2, 3, 1]> ({p}k2)
  {p}v = Transpose <perm = [0, 2, 1, 3]> ({p}v2)
  {p}s = MatMul({p}q, {p}k)
  {p}scaled = Div({p}s, root)
  {p}masked = {mask}
  {p}a = Softmax <axis = -1> ({p}masked)
  {p}c = MatMul({p}a, {p}v)
  {p}c1 = Transpose <perm = [0, 2, 1, 3]> ({p}c)
  {p}out = Reshape({p}c1, joined)
"""


def attention(q: str, k: str, mask: str = "Identity({p}scaled)", p: str = "a_") -> str:
    """Return the nodes of an attention of two heads, to `{p}out`."""
    return ATTENTION.format(q=q, k=k, p=p, mask=mask.format(p=p))


PATCHES = (
    """patches (float[b, 3, 16, 16] image) => (float[b, 4] scores) {
  p1 = Conv <strides = [8, 8]> (image, w1)
  shape = Shape(p1)
  rows = Slice(shape, zero, one)
  p2_shape = Concat <axis = 0> (rows, width, minus_one)
  p2 = Reshape(p1, p2_shape)
  p3 = Transpose <perm = [0, 2, 1]> (p2)
  token_shape = Concat <axis = 0> (rows, one_width)
  token = Expand(class_token, token_shape)
  x1 = Concat <axis = 1> (token, p3)
  x = Add(x1, positions)
  mean = ReduceMean <axes = [-1]> (x)
  centred = Sub(x, mean)
  squares = Mul(centred, centred)
  variance = ReduceMean <axes = [-1]> (squares)
  padded = Add(variance, epsilon)
  deviation = Sqrt(padded)
  n = Div(centred, deviation)"""
    + attention("n", "n")
    + """  y = Add(x, a_out)
  first = Gather <axis = 1> (y, at_0)
  scores = MatMul(first, w2)
}"""
)

WINDOWS = """windows (float[b, 3, 16, 16] image) => (float[b, 4] scores) {
  p1 = Conv <strides = [2, 2]> (image, w1)
  p = Transpose <perm = [0, 2, 3, 1]> (p1)
  tail = Slice(p, two, far, one)
  head = Slice(p, zero, two, one)
  rolled = Concat <axis = 1> (tail, head)
  shape = Shape(rolled)
  rows = Slice(shape, zero, one)
  cut_shape = Concat <axis = 0> (rows, cut_tail)
  cut = Reshape(rolled, cut_shape)
  regrouped = Transpose <perm = [0, 1, 3, 2, 4, 5]> (cut)
  x = Reshape(regrouped, window_shape)
  k = Transpose <perm = [0, 2, 1]> (x)
  s = MatMul(x, k)
  biased = Add(s, bias)
  a = Softmax <axis = -1> (biased)
  c = MatMul(a, x)
  back_shape = Concat <axis = 0> (rows, back_tail)
  back = Reshape(c, back_shape)
  pooled = ReduceMean <axes = [1], keepdims = 0> (back)
  scores = MatMul(pooled, w2)
}"""

MASKED = (
    """masked (int64[b, n] ids, int64[b, n] mask) => (float[b, 4] logits) {
  x1 = Gather(table, ids)
  shape = Shape(ids)
  length = Slice(shape, one, two)
  some = Slice(positions, zero, length, zero)
  x = Add(x1, some)
  mask_f = Cast <to = 1> (mask)
  mask_4d = Unsqueeze(mask_f, one_two)
  missing = Sub(all, mask_4d)
  bias = Mul(missing, lowest)"""
    + attention("x", "x", "Add({p}scaled, bias)")
    + """  y1 = Add(x, a_out)
  y = LayerNormalization(y1, gain, shift)
  h1 = MatMul(y, w1)
  h2 = Div(h1, root_two)
  h3 = Erf(h2)
  h4 = Add(h3, all)
  h5 = Mul(h1, h4)
  h = Mul(h5, half)
  first = Gather <axis = 1> (h, at_0)
  pooled = Tanh(first)
  logits = MatMul(pooled, w2)
}"""
)

CACHE = """cache (int64[b, n] ids, float[b, 2, past, 4] key, float[b, 2, past, 4] value)
  => (float[b, n, 20] logits, float[b, 2, total, 4] new_key, float[b, 2, total, 4] new_value) {
  x = Gather(table, ids)
  q1 = MatMul(x, wq)
  k1 = MatMul(x, wk)
  v1 = MatMul(x, wv)
  q2 = Reshape(q1, heads)
  k2 = Reshape(k1, heads)
  v2 = Reshape(v1, heads)
  q = Transpose <perm = [0, 2, 1, 3]> (q2)
  k = Transpose <perm = [0, 2, 1, 3]> (k2)
  v = Transpose <perm = [0, 2, 1, 3]> (v2)
  new_key = Concat <axis = 2> (key, k)
  new_value = Concat <axis = 2> (value, v)
  turned = Transpose <perm = [0, 1, 3, 2]> (new_key)
  s = MatMul(q, turned)
  key_shape = Shape(new_key)
  total = Gather(key_shape, at_2)
  past_shape = Shape(key)
  past = Gather(past_shape, at_2)
  columns = Range(at_0, total, at_1)
  rows = Range(past, total, at_1)
  row_column = Unsqueeze(rows, one)
  visible = LessOrEqual(columns, row_column)
  masked = Where(visible, s, lowest)
  a = Softmax <axis = -1> (masked)
  c = MatMul(a, new_value)
  c1 = Transpose <perm = [0, 2, 1, 3]> (c)
  c2 = Reshape(c1, joined)
  y = Add(x, c2)
  logits = MatMul(y, w_out)
}"""

CROSSED = (
    """crossed (float[b, 4, t] sound, int64[b, n] said) => (float[b, n, 20] logits) {
  c1 = Conv <pads = [1, 1]> (sound, w_conv)
  c2 = Div(c1, root_two)
  c3 = Erf(c2)
  c4 = Add(c3, all)
  c5 = Mul(c1, c4)
  c6 = Mul(c5, half)
  heard = Transpose <perm = [0, 2, 1]> (c6)
  x = Gather(table, said)
  x_shape = Shape(x)
  n = Gather(x_shape, at_1)
  at = Range(at_0, n, at_1)
  at_column = Unsqueeze(at, one)
  distance = Sub(at, at_column)
  near = Clip(distance, minus_three, at_0)
  bucket = Neg(near)
  bias1 = Gather(buckets, bucket)
  bias2 = Transpose <perm = [2, 0, 1]> (bias1)
  bias = Unsqueeze(bias2, zero)"""
    + attention("x", "x", "Add({p}scaled, bias)", "s_")
    + "  y = Add(x, s_out)"
    + attention("y", "heard", p="c_")
    + """  z = Add(y, c_out)
  logits = MatMul(z, w_out)
}"""
)

TWO_TOWERS = """towers (int64[texts, n] ids, float[pictures, 3, 16, 16] image) => (float[pictures, texts] logits) {
  x = Gather(table, ids)
  last = ArgMax <axis = 1, keepdims = 1> (ids)
  index = Unsqueeze(last, minus_one)
  index_shape = Concat <axis = 0> (one, one, width)
  wide = Expand(index, index_shape)
  taken = GatherElements <axis = 1> (x, wide)
  text = Squeeze(taken, one)
  f = Conv <strides = [8, 8]> (image, w1)
  pooled = GlobalAveragePool(f)
  picture = Flatten(pooled)
  text_norm = ReduceL2 <axes = [-1], keepdims = 1> (text)
  text_1 = Div(text, text_norm)
  picture_norm = ReduceL2 <axes = [-1], keepdims = 1> (picture)
  picture_1 = Div(picture, picture_norm)
  text_t = Transpose <perm = [1, 0]> (text_1)
  cosine = MatMul(picture_1, text_t)
  scale = Exp(log_scale)
  logits = Mul(cosine, scale)
}"""

TREES = """trees (float[b, 4] table) => (int64[b] label, seq(map(int64, float)) chances) {
  scaled = ai.onnx.ml.Scaler <offset = [0.1, 0.2, 0.0, 0.0], scale = [1.0, 2.0, 1.0, 0.5]> (table)
  label, raw = ai.onnx.ml.TreeEnsembleClassifier <
    nodes_treeids = [0, 0, 0, 1, 1, 1], nodes_nodeids = [0, 1, 2, 0, 1, 2], nodes_featureids = [0, 0, 0, 3, 0, 0],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.1, 0.0, 0.0, 0.2, 0.0, 0.0],
    nodes_truenodeids = [1, 0, 0, 1, 0, 0], nodes_falsenodeids = [2, 0, 0, 2, 0, 0], class_ids = [0, 1, 0, 1, 1, 0, 1, 0],
    class_treeids = [0, 0, 0, 0, 1, 1, 1, 1], class_nodeids = [1, 1, 2, 2, 1, 1, 2, 2],
    class_weights = [0.4, 0.1, 0.1, 0.4, 0.2, 0.3, 0.1, 0.4], classlabels_int64s = [0, 1], post_transform = "NONE"> (scaled)
  chances = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (raw)
}"""

COUNTED = """counted (string[b, 1] text) => (string[b] label, float[b, 2] chances) {
  flat = Reshape(text, minus_one)
  lower = StringNormalizer <case_change_action = "LOWER", is_case_sensitive = 0, locale = "C"> (flat)
  tokens = com.microsoft.Tokenizer <mark = 0, mincharnum = 1, pad_value = "#", tokenexp = "[a-z]+"> (lower)
  counts = TfIdfVectorizer <mode = "TFIDF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, ngram_counts = [0],
    ngram_indexes = [0, 1, 2], pool_strings = ["cut", "graph", "plan"], weights = [1.0, 1.5, 2.0]> (tokens)
  unit = ai.onnx.ml.Normalizer <norm = "L2"> (counts)
  label, raw = ai.onnx.ml.LinearClassifier <classlabels_strings = ["no", "yes"],
    coefficients = [-1.0, 2.0, 0.5, 1.0, -2.0, -0.5], intercepts = [0.1, -0.1], multi_class = 0, post_transform = "SOFTMAX"
    > (unit)
  chances = ai.onnx.ml.Normalizer <norm = "L1"> (raw)
}"""

BYTES_AT_RUN_TIME = """at_run_time (float[b, 8] x) => (float[b, 4] y) {
  q, scale, zero_point = DynamicQuantizeLinear(x)
  sums = MatMulInteger(q, w_q, zero_point, w_zero)
  sums_f = Cast <to = 1> (sums)
  both = Mul(scale, w_scale)
  h = Mul(sums_f, both)
  y = Relu(h)
}"""

QDQ = """qdq (float[b, 3, 16, 16] image) => (float[b, 4] y) {
  q1 = QuantizeLinear(image, s, z)
  x = DequantizeLinear(q1, s, z)
  w = DequantizeLinear(w_q, w_s, w_z)
  f1 = Conv <strides = [2, 2]> (x, w)
  f = Relu(f1)
  q2 = QuantizeLinear(f, s, z)
  f_x = DequantizeLinear(q2, s, z)
  pooled = GlobalAveragePool(f_x)
  q3 = QuantizeLinear(pooled, s, z)
  p_x = DequantizeLinear(q3, s, z)
  flat = Flatten(p_x)
  y = MatMul(flat, w2)
}"""

QLINEAR = """qlinear (float[b, 3, 16, 16] image) => (float[b, 8] y) {
  x = QuantizeLinear(image, s, z)
  f = QLinearConv <strides = [2, 2]> (x, s, z, w_q, w_s, w_z, s, z)
  p = com.microsoft.QLinearGlobalAveragePool <channels_last = 0> (f, s, z, s, z)
  flat = Flatten(p)
  y = DequantizeLinear(flat, s, z)
}"""

HALF = """half (float16[b, 8] x) => (float16[b, 8] y) {
  h1 = MatMul(x, w16)
  h = Relu(h1)
  wide = Cast <to = 1> (h)
  normal = LayerNormalization(wide, gain, shift)
  narrow = Cast <to = 10> (normal)
  y = Softmax(narrow)
}"""

FUSED = """fused (float[b, n, 8] x, int32[b, n] mask) => (float[b, n, 8] y) {
  a = com.microsoft.Attention <num_heads = 2> (x, w_qkv, b_qkv, mask)
  s = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (a, x, gain, shift)
  h1 = MatMul(s, w1)
  h = com.microsoft.BiasGelu(h1, bias)
  f = com.microsoft.FusedMatMul <alpha = 0.5> (h, w1)
  y = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (f, s, gain, shift)
}"""
