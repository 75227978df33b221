package main

import (
	"context"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/viper"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	"github.com/conductorone/baton-sdk/pkg/annotations"
	"github.com/conductorone/baton-sdk/pkg/cli"
	"github.com/conductorone/baton-sdk/pkg/config"
	"github.com/conductorone/baton-sdk/pkg/connectorbuilder"
	"github.com/conductorone/baton-sdk/pkg/field"
	"github.com/conductorone/baton-sdk/pkg/types/resource"
	"github.com/conductorone/baton-sdk/pkg/uhttp"
)

// asConnector names the variable that makes the judge a connector of the SDK: the measure for how a process ends. The
// SDK starts itself again as a child, which has to become one as well.
const asConnector = "JUDGE_IS_A_CONNECTOR"

// sdkConnector asks JumpCloud one thing and knows one type of resource that has no objects.
type sdkConnector struct{ key, base string }

func (c *sdkConnector) Metadata(context.Context) (*v2.ConnectorMetadata, error) {
	return v2.ConnectorMetadata_builder{DisplayName: "Measure"}.Build(), nil
}

func (c *sdkConnector) Validate(ctx context.Context) (annotations.Annotations, error) {
	base, err := url.Parse(c.base)
	if err != nil {
		return nil, err
	}
	plain, err := uhttp.NewClient(ctx)
	if err != nil {
		return nil, err
	}
	client, err := uhttp.NewBaseHttpClientWithContext(ctx, plain)
	if err != nil {
		return nil, err
	}
	request, err := client.NewRequest(ctx, http.MethodGet, base.JoinPath("api", "systemusers"), uhttp.WithHeader("x-api-key", c.key))
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	return nil, answer.Body.Close()
}

func (c *sdkConnector) ResourceSyncers(context.Context) []connectorbuilder.ResourceSyncerV2 {
	return []connectorbuilder.ResourceSyncerV2{nothing{}}
}

type nothing struct{}

func (nothing) ResourceType(context.Context) *v2.ResourceType {
	return v2.ResourceType_builder{Id: "user", DisplayName: "User"}.Build()
}

func (nothing) List(context.Context, *v2.ResourceId, resource.SyncOpAttrs) ([]*v2.Resource, *resource.SyncOpResults, error) {
	return nil, nil, nil
}

func (nothing) Entitlements(context.Context, *v2.Resource, resource.SyncOpAttrs) ([]*v2.Entitlement, *resource.SyncOpResults, error) {
	return nil, nil, nil
}

func (nothing) Grants(context.Context, *v2.Resource, resource.SyncOpAttrs) ([]*v2.Grant, *resource.SyncOpResults, error) {
	return nil, nil, nil
}

func runAsConnector() {
	key := field.StringField("api-key", field.WithRequired(true), field.WithIsSecret(true))
	base := field.StringField("base-url", field.WithDefaultValue("https://console.jumpcloud.com"))
	config.RunConnector(context.Background(), "measure", "0.0.0", field.NewConfiguration([]field.SchemaField{key, base}),
		func(_ context.Context, v *viper.Viper, _ *cli.ConnectorOpts) (connectorbuilder.ConnectorBuilderV2, []connectorbuilder.Opt, error) {
			return &sdkConnector{key: v.GetString("api-key"), base: v.GetString("base-url")}, nil, nil
		})
	os.Exit(0)
}
